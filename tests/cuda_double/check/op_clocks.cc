#include "tests/cuda_double/check/op_clocks.h"

#include <algorithm>

namespace sluice::cuda_double {

OpClocks::OpClocks() : ops_(1), seen_(1, std::vector<uint32_t>(1, 0)) {}

int OpClocks::AddTimeline() {
  seen_.emplace_back();
  return static_cast<int>(seen_.size()) - 1;
}

OpId OpClocks::Add(int timeline, const std::string& name) {
  Join(timeline, seen_[kHostTimeline]);
  auto& seen = seen_[Index(timeline)];
  if (seen.size() <= Index(timeline)) seen.resize(Index(timeline) + 1, 0);
  const uint32_t index = ++seen[Index(timeline)];
  ops_.push_back({.timeline = timeline, .index = index, .seen = seen, .name = name});
  return static_cast<OpId>(ops_.size()) - 1;
}

void OpClocks::Join(int timeline, const std::vector<uint32_t>& snapshot) {
  auto& seen = seen_[Index(timeline)];
  if (seen.size() < snapshot.size()) seen.resize(snapshot.size(), 0);
  for (size_t i = 0; i < snapshot.size(); ++i) seen[i] = std::max(seen[i], snapshot[i]);
}

std::string OpClocks::Describe(OpId op) const {
  const Op& described = ops_[op];
  std::string seen;
  for (const uint32_t index : described.seen) {
    seen += (seen.empty() ? "" : ",") + std::to_string(index);
  }
  return std::to_string(described.timeline) + " " + std::to_string(described.index) + " " + seen +
         " " + described.name;
}

bool OpClocks::IsOrdered(OpId first, OpId second) const {
  const Op &a = ops_[first], &b = ops_[second];
  return Index(a.timeline) < b.seen.size() && b.seen[Index(a.timeline)] >= a.index;
}

}  // namespace sluice::cuda_double
