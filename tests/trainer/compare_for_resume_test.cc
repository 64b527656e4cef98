#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/trainer/one_rank.h"
#include "trainer/loop/resume.h"

namespace sluice::trainer {
namespace {

using ::testing::HasSubstr;

RunConfig RampConfig() {
  RunConfig config = TinyConfig();
  config.mutable_model()->set_num_hidden_layers(4);
  config.mutable_train()->set_global_batch(32);
  config.mutable_train()->set_batch_ramp_start(8);
  config.mutable_train()->set_batch_ramp_steps(10);
  return config;
}

RunConfig Resolved(const RunConfig& config, int ranks) {
  const auto resolved = Resolve(config, ranks);
  CHECK(resolved.ok()) << resolved.status().ToString();
  return *resolved;
}

// A changed field is one line, without the messages that hold it.
TEST(CompareForResume, ALineForEachChangedField) {
  RunConfig before = Resolved(TinyConfig(), 1), after = before;
  after.mutable_train()->set_steps(before.train().steps() + 1);
  before.mutable_compute()->clear_matmul_kernels();
  const auto changes = CompareForResume(before, after);
  ASSERT_TRUE(changes.ok()) << changes.status();
  const std::string lines = *changes;
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '>'), 2) << lines;
  EXPECT_THAT(lines, HasSubstr(absl::StrCat("train.steps: ", before.train().steps(), " -> ",
                                            after.train().steps())));
  EXPECT_THAT(lines, HasSubstr("compute.matmul_kernels: unset -> \"auto\""));
}

TEST(CompareForResume, ARampAllowsAnotherMeshThatRoundsBatchesAlike) {
  const RunConfig stored = Resolved(RampConfig(), 1);
  RunConfig now = RampConfig();
  now.mutable_train()->set_microbatch(1);  // 2 ranks of 1 instead of 1 of 2
  const auto changes = CompareForResume(stored, Resolved(now, 2));
  ASSERT_TRUE(changes.ok()) << changes.status();
  EXPECT_THAT(*changes, HasSubstr("mesh.data: 1 -> 2"));
}

TEST(CompareForResume, ARampRefusesAMeshThatRoundsBatchesOtherwise) {
  const RunConfig stored = Resolved(RampConfig(), 1);
  const auto wider = CompareForResume(stored, Resolved(RampConfig(), 2));
  EXPECT_EQ(wider.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(wider.status().message()), HasSubstr("mesh.data: found 2, wanted 1"));
  // Without a ramp all batches are alike.
  RunConfig before = RampConfig(), after = RampConfig();
  before.mutable_train()->set_batch_ramp_start(0);
  after.mutable_train()->set_batch_ramp_start(0);
  EXPECT_TRUE(CompareForResume(Resolved(before, 1), Resolved(after, 2)).ok());
}

TEST(CompareForResume, ARampRefusesAScheduleThatNeedsMoreMicrobatches) {
  RunConfig config = RampConfig();
  config.mutable_mesh()->set_pipe(2);
  const RunConfig stored = Resolved(config, 2);
  config.set_schedule("interleaved");
  const auto interleaved = CompareForResume(stored, Resolved(config, 2));
  EXPECT_THAT(std::string(interleaved.status().message()),
              HasSubstr("schedule: found \"interleaved\", wanted \"1f1b\""));
  config.set_schedule("gpipe");
  EXPECT_TRUE(CompareForResume(stored, Resolved(config, 2)).ok());
}

}  // namespace
}  // namespace sluice::trainer
