// Which of two operations of a program (launches, copies, the host's own accesses) is known to come
// first: by one stream's order, an event, or a synchronisation. Vector clocks, one entry a
// timeline.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sluice::cuda_double {

using OpId = uint32_t;  // 0: none
inline constexpr int kHostTimeline = 0;

class OpClocks {
 public:
  OpClocks();
  // A new line of operations in order: a stream.
  int AddTimeline();
  // The next operation of a timeline. It comes after all that the host has done or waited for.
  OpId Add(int timeline, const std::string& name);
  // What an event holds: everything so far on the timeline.
  std::vector<uint32_t> Snapshot(int timeline) const { return seen_[Index(timeline)]; }
  // All later operations of the timeline come after what the snapshot holds.
  void Join(int timeline, const std::vector<uint32_t>& snapshot);

  bool IsOrdered(OpId first, OpId second) const;
  const std::string& NameOf(OpId op) const { return ops_[op].name; }
  // "TIMELINE INDEX SEEN,SEEN,... NAME": its place on its timeline, counted from 1, and up to which
  // place of each timeline all is done before it.
  std::string Describe(OpId op) const;

 private:
  struct Op {
    int timeline = 0;
    uint32_t index = 0;
    std::vector<uint32_t> seen;
    std::string name;
  };
  static size_t Index(int timeline) { return static_cast<size_t>(timeline); }

  std::vector<Op> ops_;
  std::vector<std::vector<uint32_t>> seen_;  // [timeline][timeline]
};

}  // namespace sluice::cuda_double
