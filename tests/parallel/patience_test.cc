#include "parallel/comm/patience.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

namespace sluice::parallel {
namespace {

// How often this thread has left its core of its own will.
int64_t Switches() {
  rusage usage = {};
  EXPECT_EQ(getrusage(RUSAGE_THREAD, &usage), 0);
  return usage.ru_nvcsw;
}

TEST(Patience, StaysAwakeAtFirstAndThenSleeps) {
  Patience patience;
  const int64_t before = Switches();
  for (int64_t i = 0; i < Patience::kAwake; ++i) patience.Rest();
  EXPECT_EQ(Switches(), before);
  EXPECT_EQ(patience.sleeps(), 0);
  for (int i = 0; i < 100; ++i) patience.Rest();
  EXPECT_EQ(patience.sleeps(), 100);
  EXPECT_GT(Switches(), before);
}

}  // namespace
}  // namespace sluice::parallel
