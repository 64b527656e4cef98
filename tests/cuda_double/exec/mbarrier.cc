#include "tests/cuda_double/exec/mbarrier.h"

#include <algorithm>

namespace sluice::cuda_double {
namespace {

constexpr const char* kUnknown = "no mbarrier was initialised here";

}  // namespace

std::string Mbarriers::Init(uint64_t at, uint32_t arrivals, int warp, uint32_t warp_clock) {
  if (arrivals == 0 || arrivals >= 1u << 20) return "an mbarrier's arrivals must be 1 to 2^20 - 1";
  if (!IsKnown(at) && barriers_.size() == static_cast<size_t>(kMaxMbarriers)) {
    return "more than " + std::to_string(kMaxMbarriers) + " mbarriers are not modelled";
  }
  const int agent =
      IsKnown(at) ? barriers_[at].agent : kCopyAgents + static_cast<int>(barriers_.size());
  const uint32_t num_copies = IsKnown(at) ? barriers_[at].num_copies : 0;
  Barrier& barrier = barriers_[at];
  barrier = {};
  barrier.arrivals = barrier.missing = arrivals;
  barrier.agent = agent;
  barrier.num_copies = num_copies;
  barrier.maker = warp;
  barrier.made = warp_clock;
  return "";
}

bool Mbarriers::IsVisible(uint64_t at, int warp, const Clock& clock) const {
  const Barrier& barrier = barriers_.at(at);
  return barrier.maker == warp || clock[static_cast<size_t>(barrier.maker)] >= barrier.made;
}

bool Mbarriers::IsFenced(uint64_t at, const Clock& fenced) const {
  const Barrier& barrier = barriers_.at(at);
  return fenced[static_cast<size_t>(barrier.maker)] >= barrier.made;
}

std::string Mbarriers::Arrive(uint64_t at, uint32_t arrivals, int64_t bytes, const Knowledge& of) {
  if (!IsKnown(at)) return kUnknown;
  Barrier& barrier = barriers_[at];
  if (barrier.missing < arrivals) {
    return "arrives more often than the mbarrier's " + std::to_string(barrier.arrivals) +
           " times in one phase";
  }
  barrier.bytes += bytes;
  barrier.missing -= arrivals;
  Join(barrier.arriving.clock, of.clock);
  Join(barrier.arriving.fenced, of.fenced);
  EndPhaseIfComplete(barrier);
  return "";
}

std::string Mbarriers::NoteCopy(uint64_t at, int& agent, uint32_t& number) {
  if (!IsKnown(at)) return kUnknown;
  agent = barriers_[at].agent;
  number = ++barriers_[at].num_copies;
  return "";
}

void Mbarriers::CompleteCopy(uint64_t at, int64_t bytes, int agent, uint32_t number) {
  Barrier& barrier = barriers_[at];
  barrier.bytes -= bytes;
  for (Clock* clock : {&barrier.arriving.clock, &barrier.arriving.fenced}) {
    uint32_t& seen = (*clock)[static_cast<size_t>(agent)];
    seen = std::max(seen, number);
  }
  EndPhaseIfComplete(barrier);
}

void Mbarriers::EndPhaseIfComplete(Barrier& barrier) {
  if (barrier.missing != 0 || barrier.bytes != 0) return;
  barrier.missing = barrier.arrivals;
  barrier.phase ^= 1;
  barrier.last = barrier.arriving;
}

}  // namespace sluice::cuda_double
