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
  EXPECT_EQ(patience.slept(), 0);
  for (int i = 0; i < 10; ++i) patience.Rest();
  EXPECT_GT(Switches(), before);
}

// Of 10 us each until a quarter of the sleep is more, then each 5/4 of the one before, 1 ms at
// most.
TEST(Patience, SleepsAQuarterOfWhatItSlept) {
  EXPECT_EQ(Patience::NextSleep(0), 10'000);
  EXPECT_EQ(Patience::NextSleep(40'000), 10'000);
  EXPECT_EQ(Patience::NextSleep(400'000), 100'000);
  EXPECT_EQ(Patience::NextSleep(4'000'000), 1'000'000);
  EXPECT_EQ(Patience::NextSleep(int64_t{1} << 60), 1'000'000);
  Patience patience;
  for (int64_t i = 0; i < Patience::kAwake + 5; ++i) patience.Rest();
  EXPECT_EQ(patience.slept(), 4 * 10'000 + 10'000);
  patience.Rest();
  EXPECT_EQ(patience.slept(), 50'000 + 12'500);
}

}  // namespace
}  // namespace sluice::parallel
