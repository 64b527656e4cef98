// How a rank waits for messages where ranks share cores. MPI has no call that sleeps until a
// message comes: one asks again and again. A rank that asks without end counts for the kernel like
// one that works, so others stay queued behind it while a core is free elsewhere, and what arrived
// for it is noticed when its turn comes, milliseconds later. One that sleeps between its questions
// leaves its core, wakes on whichever is free, and comes before those that have long been running.
#pragma once

#include <cstdint>

namespace sluice::parallel {

// From the first question of one wait to its answer.
class Patience {
 public:
  // Between two questions: returns at once the first kAwake times, which is when the answer of a
  // peer that works alongside comes, then sleeps kSleepNanoseconds, a little longer than the
  // kernel's switch from one process to another and back and far shorter than an action.
  void Rest();
  int64_t sleeps() const { return asked_ > kAwake ? asked_ - kAwake : 0; }

  static constexpr int64_t kAwake = 20;
  static constexpr int64_t kSleepNanoseconds = 50'000;

 private:
  int64_t asked_ = 0;
};

}  // namespace sluice::parallel
