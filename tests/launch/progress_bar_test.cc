// The line that long imports, exports and tokenizing show.
#include "launch/progress_bar.h"

#include "gtest/gtest.h"

namespace sluice::launch {
namespace {

TEST(ProgressBar, SaysShareSpeedAndWhatIsLeft) {
  EXPECT_EQ(ProgressText(1'000'000'000, 2'000'000'000, 2),
            "[###############...............]  50%  1.00 of 2.00 GB  500 MB/s  2 s left");
  EXPECT_EQ(ProgressText(0, 2'000'000'000, 0),
            "[..............................]   0%  0.00 of 2.00 GB  0 MB/s");
  EXPECT_EQ(ProgressText(2'000'000'000, 2'000'000'000, 4),
            "[##############################] 100%  2.00 of 2.00 GB  500 MB/s  0 s left");
  EXPECT_EQ(ProgressText(1'800'000, 3'600'000, 1),
            "[###############...............]  50%  1.80 of 3.60 MB  2 MB/s  1 s left");
  EXPECT_EQ(ProgressText(0, 0, 0),
            "[##############################] 100%  0.00 of 0.00 MB  0 MB/s");
}

}  // namespace
}  // namespace sluice::launch
