// Exchange between the lanes of a warp (PTX ISA 9.7.9.6 and 9.7.13). All lanes that the member mask
// names must execute the instruction together.
#include <algorithm>

#include "tests/cuda_double/exec/decode.h"
#include "tests/cuda_double/exec/lanes.h"

namespace sluice::cuda_double {
namespace {

// CHECKs a lane's member mask; false after Fail.
bool MembersAreHere(const Context& c, int lane, uint32_t members) {
  if ((members >> lane & 1) == 0) {
    c.block.Fail(c, lane, "the member mask does not name the lane itself");
  } else if ((members & c.mask) != members) {
    c.block.Fail(c, lane, "the member mask names lanes that do not execute this together");
  }
  return !c.block.has_failed();
}

enum ShuffleMode { kUp, kDown, kButterfly, kIndex };

// shfl.sync.mode.b32 d|p, a, b, c, members: c holds the clamp (bits 0-4) and the segment mask
// (8-12).
void RunShuffle(const Context& c) {
  const Operand& to = c.instruction.operands[0];
  const uint64_t *a = c.Source(1), *b = c.Source(2), *clamp = c.Source(3), *members = c.Source(4);
  uint64_t result[kLanes] = {}, found[kLanes] = {};
  ForLanes(c.mask, [&](int lane) {
    if (!MembersAreHere(c, lane, Get<uint32_t>(members[lane]))) return;
    const int segment = static_cast<int>(clamp[lane] >> 8 & 31);
    const int limit = static_cast<int>(clamp[lane] & 31), by = static_cast<int>(b[lane] & 31);
    const int most = (lane & segment) | (limit & ~segment), least = lane & segment;
    int from = 0;
    bool is_inside = false;
    switch (c.instruction.detail) {
      case kUp:
        from = lane - by;
        is_inside = from >= most;
        break;
      case kDown:
        from = lane + by;
        is_inside = from <= most;
        break;
      case kButterfly:
        from = lane ^ by;
        is_inside = from <= most;
        break;
      default:
        from = least | (by & ~segment);
        is_inside = from <= most;
    }
    if (!is_inside) from = lane;
    if ((Get<uint32_t>(members[lane]) >> from & 1) == 0) {
      return c.block.Fail(
          c, lane, "reads lane " + std::to_string(from) + ", which the member mask does not name");
    }
    result[lane] = Get<uint32_t>(a[from]);
    found[lane] = is_inside ? 1 : 0;
  });
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) {
    d[lane] = result[lane];
    if (to.second >= 0) c.warp.Row(to.second)[lane] = found[lane];
  });
}

enum VoteMode { kAll, kAny, kUniform, kBallot };

void RunVote(const Context& c) {
  const uint64_t *p = c.Source(1), *members = c.Source(2);
  const uint64_t flip = c.instruction.operands[1].is_negated ? 1 : 0;
  uint32_t votes = 0;
  ForLanes(c.mask, [&](int lane) { votes |= static_cast<uint32_t>((p[lane] ^ flip) & 1) << lane; });
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) {
    const auto who = Get<uint32_t>(members[lane]);
    if (!MembersAreHere(c, lane, who)) return;
    const uint32_t of_members = votes & who;
    const bool all = of_members == who, any = of_members != 0;
    const int mode = c.instruction.detail;
    d[lane] = mode == kBallot ? of_members : mode == kAll ? all : mode == kAny ? any : all || !any;
  });
}

// match.any.sync: the members with my value.
template <typename T>
void RunMatchAny(const Context& c) {
  const uint64_t *a = c.Source(1), *members = c.Source(2);
  uint64_t result[kLanes] = {};
  ForLanes(c.mask, [&](int lane) {
    const auto who = Get<uint32_t>(members[lane]);
    if (!MembersAreHere(c, lane, who)) return;
    ForLanes(who, [&](int other) {
      if (Get<T>(a[other]) == Get<T>(a[lane])) result[lane] |= 1ull << other;
    });
  });
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) { d[lane] = result[lane]; });
}

enum ReduceMode { kAdd, kMin, kMax, kAnd, kOr, kXor };

template <typename T>
void RunReduce(const Context& c) {
  const uint64_t *a = c.Source(1), *members = c.Source(2);
  uint64_t result[kLanes] = {};
  ForLanes(c.mask, [&](int lane) {
    const auto who = Get<uint32_t>(members[lane]);
    if (!MembersAreHere(c, lane, who)) return;
    T total = Get<T>(a[FirstLane(who)]);
    ForLanes(who & (who - 1), [&](int other) {
      const T x = Get<T>(a[other]);
      const auto unsigned_total = static_cast<uint32_t>(total), y = static_cast<uint32_t>(x);
      switch (c.instruction.detail) {
        case kAdd:
          total = static_cast<T>(unsigned_total + y);
          break;
        case kMin:
          total = std::min(total, x);
          break;
        case kMax:
          total = std::max(total, x);
          break;
        case kAnd:
          total = static_cast<T>(unsigned_total & y);
          break;
        case kOr:
          total = static_cast<T>(unsigned_total | y);
          break;
        default:
          total = static_cast<T>(unsigned_total ^ y);
      }
    });
    result[lane] = Put<T>(total);
  });
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) { d[lane] = result[lane]; });
}

void RunActiveMask(const Context& c) {
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) { d[lane] = c.mask; });
}

}  // namespace

void DecodeWarp(Instruction& i, Modifiers& modifiers) {
  i.type = modifiers.TakeType();
  if (i.opcode == "activemask") {
    if (i.type == Type::kB32) i.run = RunActiveMask;
    return;
  }
  if (!modifiers.Take("sync")) return;
  if (i.opcode == "shfl" && i.type == Type::kB32) {
    i.detail = modifiers.TakeOneOf({"up", "down", "bfly", "idx"});
    if (i.detail >= 0) i.run = RunShuffle;
  } else if (i.opcode == "vote") {
    i.detail = modifiers.TakeOneOf({"all", "any", "uni", "ballot"});
    const Type wanted = i.detail == kBallot ? Type::kB32 : Type::kPred;
    if (i.detail >= 0 && i.type == wanted) i.run = RunVote;
  } else if (i.opcode == "match" && modifiers.Take("any")) {
    if (i.type == Type::kB32) i.run = RunMatchAny<uint32_t>;
    if (i.type == Type::kB64) i.run = RunMatchAny<uint64_t>;
  } else if (i.opcode == "redux") {
    i.detail = modifiers.TakeOneOf({"add", "min", "max", "and", "or", "xor"});
    if (i.detail < 0) return;
    if (i.type == Type::kU32 || i.type == Type::kB32) i.run = RunReduce<uint32_t>;
    if (i.type == Type::kS32) i.run = RunReduce<int32_t>;
  }
}

}  // namespace sluice::cuda_double
