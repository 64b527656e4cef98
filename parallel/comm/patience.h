// How a rank waits for messages where ranks share cores. MPI has no call that sleeps until a
// message comes: one asks again and again. A rank that asks without end counts for the kernel like
// one that works, so others stay queued behind it while a core is free elsewhere, and what arrived
// for it is noticed when its turn comes: beside ranks that work, 4 ms later (Linux 6.18 with 250
// ticks a second, whether it yields or not). One that sleeps between its questions leaves its core,
// wakes on whichever is free, and comes before those that have long been running.
#pragma once

#include <cstdint>

namespace sluice::parallel {

// From the first question of one wait to its answer.
class Patience {
 public:
  // Between two questions: returns at once the first kAwake times, which is when the answer of a
  // peer that works alongside comes, then sleeps.
  void Rest();
  int64_t slept() const { return slept_; }  // nanoseconds, without what the kernel adds

  // How long to sleep after so much sleep, in nanoseconds: a quarter of it, within the bounds (at
  // 50 us for the shortest, 4 ranks of `laptop` on 2 idle cores took a tenth more than polling). A
  // sleep costs its core 10 to 25 us (two switches and a timer; the more in a virtual machine),
  // which is why a long wait asks less often; what it adds to the wait is an eighth on the mean.
  static int64_t NextSleep(int64_t slept);

  static constexpr int64_t kAwake = 20;
  static constexpr int64_t kShortest = 10'000, kLongest = 1'000'000;

 private:
  int64_t asked_ = 0, slept_ = 0;
};

}  // namespace sluice::parallel
