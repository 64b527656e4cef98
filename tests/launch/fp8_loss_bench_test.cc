// The benchmark that compares losses of FP8 and BF16, on the smallest model for 40 steps: it runs,
// goes on where it was stopped, and the runs are near each other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "tests/launch/run_program.h"
#include "tests/support/source_path.h"

namespace sluice::launch {
namespace {

TEST(Fp8LossBenchSlow, FortyStepsOfEveryVariantStayTogether) {
  const std::string results = TestFolder() + "/results.txt";
  std::ofstream(results) << "tiny 40 1 fp8_ue8m0 1.5\n";  // as if that one were done
  const Outcome outcome = RunShell(
      testing::SourcePath("tests/bench/fp8_loss_bench") +
      " --binary " SLUICE_BINARY " --preset tiny --steps 40 --seeds 1 --results " + results);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  std::ifstream in(results);
  std::string preset, variant;
  int steps = 0, seed = 0, rows = 0;
  double loss = 0, bf16 = 0;
  while (in >> preset >> steps >> seed >> variant >> loss) {
    ++rows;
    if (variant == "fp8_ue8m0") {
      EXPECT_EQ(loss, 1.5);
    }
    if (variant == "bf16") bf16 = loss;
    if (variant == "fp8") {
      EXPECT_NE(loss, bf16);
      EXPECT_NEAR(loss, bf16, 0.02 * bf16);  // a byte model at the start of its training
    }
  }
  EXPECT_EQ(rows, 4);
  EXPECT_THAT(outcome.out, ::testing::HasSubstr("fp8_block_gradients"));
}

}  // namespace
}  // namespace sluice::launch
