// Control flow and barriers (PTX ISA 9.7.12 and 9.7.13).
#include "tests/cuda_double/exec/decode.h"
#include "tests/cuda_double/exec/lanes.h"

namespace sluice::cuda_double {
namespace {

void RunNothing(const Context&) {}

void RunTrap(const Context& c) { c.block.Fail(c, FirstLane(c.mask), "the kernel traps"); }

// bar.sync barrier {, threads} and bar.arrive barrier, threads
template <bool kWaits>
void RunBarrier(const Context& c) {
  const int lane = FirstLane(c.mask);
  const bool has_count = c.instruction.operands.size() > 1;
  c.block.ArriveAtBarrier(c, Get<int32_t>(c.Source(0)[lane]),
                          has_count ? Get<uint32_t>(c.Source(1)[lane]) : 0, kWaits);
}

// Lanes that are behind run first, so whoever will come is here.
void RunWarpSync(const Context& c) {
  ForLanes(c.mask, [&](int lane) {
    const auto members = Get<uint32_t>(c.Source(0)[lane]);
    if ((members & c.warp.live & ~c.mask) != 0) {
      c.block.Fail(c, lane, "the member mask names lanes that do not execute this together");
    }
  });
  if ((c.warp.live & ~c.mask) == 0) ++c.warp.epoch;
}

}  // namespace

void DecodeFlow(Instruction& i, Modifiers& modifiers) {
  const std::string& op = i.opcode;
  if (op == "bra") {
    modifiers.Take("uni");
    i.flow = Flow::kBranch;
    i.run = RunNothing;
  } else if (op == "ret" || op == "exit") {
    modifiers.Take("uni");
    i.flow = Flow::kExit;
    i.run = RunNothing;
  } else if (op == "trap") {
    i.run = RunTrap;
  } else if (op == "bar") {
    if (modifiers.Take("warp")) {
      if (modifiers.Take("sync")) i.run = RunWarpSync;
      return;
    }
    modifiers.Take("cta");
    if (modifiers.Take("sync")) {
      i.run = RunBarrier<true>;
    } else if (modifiers.Take("arrive") && i.operands.size() == 2) {
      i.run = RunBarrier<false>;
    }
  } else {  // fence: memory here is always in order
    modifiers.TakeOneOf({"sc", "acq_rel"});
    if (modifiers.TakeOneOf({"cta", "gpu", "sys"}) >= 0) i.run = RunNothing;
  }
}

}  // namespace sluice::cuda_double
