// Hopper's asynchronous instructions but the matrix products: mbarriers, copies of boxes of
// tensors, proxy fences (PTX ISA 9.0, sections 9.7.9.27, 9.7.13.4 and 9.7.13.15).
#include "tests/cuda_double/exec/decode.h"
#include "tests/cuda_double/exec/lanes.h"

namespace sluice::cuda_double {
namespace {

// The offset of an mbarrier that is there and visible to the warp; false after Fail.
bool FindMbarrier(const Context& c, size_t n, int lane, uint64_t& at) {
  at = AddressOf(c, n, lane) & 0xffffffffu;
  if (at % 8 != 0) {
    c.block.Fail(c, lane, "an mbarrier must lie at a multiple of 8 bytes");
  } else if (!c.block.mbarriers().IsKnown(at)) {
    c.block.Fail(c, lane, "no mbarrier was initialised here");
  } else if (!c.block.mbarriers().IsVisible(at, c.warp.index, c.warp.known.clock)) {
    c.block.Fail(c, lane, "the mbarrier was initialised with no barrier in between");
  }
  return !c.block.has_failed();
}

void RunInit(const Context& c) {
  ForLanes(c.mask, [&](int lane) {
    const uint64_t at = AddressOf(c, 0, lane) & 0xffffffffu;
    uint8_t* data = c.block.Access(c, lane, at, 8, AccessKind::kWrite);
    if (data == nullptr) return;
    const std::string why =
        c.block.mbarriers().Init(at, Get<uint32_t>(c.Source(1)[lane]), c.warp.index,
                                 c.warp.known.clock[static_cast<size_t>(c.warp.index)]);
    if (!why.empty()) c.block.Fail(c, lane, why);
  });
}

// mbarrier.arrive _, [at]; and mbarrier.arrive.expect_tx _, [at], bytes (detail 1)
void RunArrive(const Context& c) {
  ForLanes(c.mask, [&](int lane) {
    uint64_t at = 0;
    if (!FindMbarrier(c, 1, lane, at)) return;
    const int64_t bytes = c.instruction.detail == 1 ? Get<uint32_t>(c.Source(2)[lane]) : 0;
    const std::string why = c.block.mbarriers().Arrive(at, 1, bytes, c.block.Release(c.warp));
    if (!why.empty()) c.block.Fail(c, lane, why);
  });
}

// mbarrier.try_wait.parity p, [at], parity. It may give up early: sometimes it does.
void RunTryWait(const Context& c) {
  const int lane = FirstLane(c.mask);
  uint64_t at = 0;
  if (!FindMbarrier(c, 1, lane, at)) return;
  const uint32_t parity = Get<uint32_t>(c.Source(2)[lane]) & 1;
  bool is_same = true;
  ForLanes(c.mask, [&](int other) {
    is_same = is_same && (AddressOf(c, 1, other) & 0xffffffffu) == at &&
              (Get<uint32_t>(c.Source(2)[other]) & 1) == parity;
  });
  if (!is_same)
    return c.block.Fail(c, lane, "lanes that wait for different phases are not modelled");
  const bool is_past = c.block.mbarriers().IsPast(at, parity);
  const bool gives_up = c.block.launch().timing == Timing::kRandom && c.block.random()() % 8 == 0;
  if (!is_past && !gives_up) return c.block.WaitForPhase(c, at, parity);
  if (is_past) {
    const Knowledge& last = c.block.mbarriers().LastPhase(at);
    Join(c.warp.known.clock, last.clock);
    Join(c.warp.known.fenced, last.fenced);
    ++c.warp.epoch;
  }
  ForLanes(c.mask, [&](int other) { c.Destination(0)[other] = is_past ? 1 : 0; });
}

// The map behind a generic address; null after Fail.
const TensorMap* FindMap(const Context& c, int lane, uint64_t address) {
  const std::vector<uint8_t>& parameters = c.block.launch().parameters;
  const uint64_t offset = address & ~kWindowMask;
  if ((address & kWindowMask) != kParameterWindow || offset + 128 > parameters.size() ||
      offset % 64 != 0) {
    c.block.Fail(c, lane,
                 "a tensor map must be a __grid_constant__ parameter, at a multiple of 64");
    return nullptr;
  }
  const auto* map = reinterpret_cast<const TensorMap*>(parameters.data() + offset);
  if (map->magic == TensorMap::kMagic) return map;
  c.block.Fail(c, lane, "no tensor map was made here");
  return nullptr;
}

// cp.async.bulk.tensor.2d [to], [map, {x, y}], [mbarrier]; 3d: {x, y, z}
void RunCopyBox(const Context& c) {
  ForLanes(c.mask, [&](int lane) {
    const Operand& box = c.instruction.operands[1];
    BulkCopy copy;
    const TensorMap* map = FindMap(c, lane, AddressOf(c, 1, lane));
    if (map == nullptr || !FindMbarrier(c, 2, lane, copy.mbarrier)) return;
    copy.map = *map;
    copy.to = AddressOf(c, 0, lane) & 0xffffffffu;
    if (box.rows.size() != map->rank) {
      return c.block.Fail(c, lane, "copies by another number of dimensions than its map's");
    }
    for (size_t i = 0; i < box.rows.size(); ++i) {
      copy.first[i] = Get<int32_t>(c.warp.Row(box.rows[i])[lane]);
    }
    copy.warp = c.warp.index;
    copy.lane = lane;
    copy.pc = c.pc;
    if (copy.to % 128 != 0)
      return c.block.Fail(c, lane, "copies to an address that is no multiple of 128");
    // Not in the PTX ISA: an H100 calls it an illegal instruction.
    if (int64_t{copy.first[0]} * map->element_bytes % 16 != 0) {
      return c.block.Fail(c, lane, "copies a box whose first column is no multiple of 16 bytes");
    }
    if (!c.block.mbarriers().IsFenced(copy.mbarrier, c.warp.known.fenced)) {
      return c.block.Fail(c, lane, "the mbarrier was initialised with no proxy fence in between");
    }
    const std::string why = c.block.mbarriers().NoteCopy(copy.mbarrier, copy.agent, copy.number);
    if (!why.empty()) return c.block.Fail(c, lane, why);
    c.block.Issue(c, copy);
  });
}

void RunPrefetch(const Context& c) {
  ForLanes(c.mask, [&](int lane) { FindMap(c, lane, AddressOf(c, 0, lane)); });
}

// All that the warp has seen is visible to asynchronous units from here on.
void RunProxyFence(const Context& c) {
  Join(c.warp.known.fenced, c.warp.known.clock);
  ++c.warp.known.clock[static_cast<size_t>(c.warp.index)];
}

void RunAligned(const Context& c) {
  if (c.mask != 0xffffffffu)
    c.block.Fail(c, FirstLane(c.mask), "not all lanes of the warp execute this together");
}

void DecodeMbarrier(Instruction& i, Modifiers& modifiers) {
  const int what = modifiers.TakeOneOf({"init", "arrive", "try_wait"});
  if (!modifiers.Take("shared::cta") && !modifiers.Take("shared")) return;
  if (!modifiers.Take("b64")) return;
  i.space = Space::kShared;
  if (what == 0 && i.operands.size() == 2) i.run = RunInit;
  if (what == 1 && i.operands[0].kind == Operand::Kind::kSink) {
    i.detail = modifiers.Take("expect_tx") ? 1 : 0;
    if (i.operands.size() == (i.detail == 1 ? 3 : 2)) i.run = RunArrive;
  }
  if (what == 2 && modifiers.Take("parity") && i.operands.size() == 3) i.run = RunTryWait;
}

}  // namespace

void DecodeAsync(Instruction& i, Modifiers& modifiers) {
  if (i.opcode == "mbarrier") return DecodeMbarrier(i, modifiers);
  if (i.opcode == "fence") {
    if (modifiers.Take("proxy")) {
      if (!modifiers.Take("async")) return;
      modifiers.TakeOneOf({"shared::cta", "global"});
      i.run = RunProxyFence;
    } else if (modifiers.Take("mbarrier_init") && modifiers.Take("release") &&
               modifiers.Take("cluster")) {
      i.run = RunProxyFence;
    }
  } else if (i.opcode == "prefetch") {
    if (modifiers.Take("tensormap")) i.run = RunPrefetch;
  } else if (i.opcode == "setmaxnreg") {
    modifiers.TakeOneOf({"inc", "dec"});
    if (modifiers.Take("sync") && modifiers.Take("aligned") && modifiers.Take("u32"))
      i.run = RunAligned;
  } else if (i.opcode == "cp") {
    for (const char* part : {"async", "bulk", "tensor"}) {
      if (!modifiers.Take(part)) return;
    }
    const size_t rank = modifiers.Take("3d") ? 3 : 2;
    if (rank == 2 && !modifiers.Take("2d")) return;
    for (const char* part : {"shared::cluster", "global", "tile", "mbarrier::complete_tx::bytes"}) {
      if (!modifiers.Take(part)) return;
    }
    if (i.operands.size() == 3 && i.operands[1].rows.size() == rank) i.run = RunCopyBox;
  }
}

}  // namespace sluice::cuda_double
