// The planner against runs that others published, and against files of a user.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>

#include "absl/strings/str_replace.h"
#include "launch/plan_input.h"
#include "launch/presets.h"
#include "tests/launch/run_program.h"
#include "tests/support/source_path.h"

namespace sluice::launch {
namespace {

using ::testing::HasSubstr;

// The bounds are the project's targets, written in each file; no number is fitted to these runs.
// What misses its target is named here, so that it is noticed when that ends.
TEST(PublishedRuns, PredictedWithinTheirTargets) {
  const std::set<std::string> misses = {
      "mixtral_8x22b_h100_real", "qwen3_235b_h100_bridge_drop", "qwen3_235b_h100_zoo_fsdp",
      "qwen3_235b_h100_zoo_tp4", "qwen3_30b_h100_bridge",       "qwen3_30b_h100_bridge_vp12",
  };
  const auto checks = CheckPublishedRuns(PublishedRuns(), 0.2);
  ASSERT_TRUE(checks.ok()) << checks.status();
  std::set<std::string> missed;
  int held = 0;
  for (const PublishedCheck& check : *checks) {
    EXPECT_FALSE(check.run.source().empty()) << check.run.name();
    if (!check.not_checkable.empty()) continue;
    ASSERT_GT(check.run.target(), 0) << check.run.name() << ": what can be checked has a target";
    if (std::abs(check.error()) > check.run.target()) missed.insert(check.run.name());
    ++held;
  }
  EXPECT_EQ(missed, misses);
  EXPECT_GE(held, 28);
}

// 2.664M hours and $5.328M for 14.8T tokens, 180K hours a trillion: within the 10 % of its step.
TEST(PublishedRuns, HoursAndMoneyOfDeepSeekV3) {
  const auto checks = CheckPublishedRuns(PublishedRuns(), 0.2);
  ASSERT_TRUE(checks.ok()) << checks.status();
  int found = 0;
  for (const PublishedCheck& check : *checks) {
    if (check.run.name() != "deepseek_v3_h800") continue;
    ++found;
    const double steps = 14.8e12 / (15360.0 * 4096);
    const double hours = steps * check.predicted.step_seconds / 3600 * 2048;
    EXPECT_NEAR(check.predicted.device_hours, hours, 1e-9 * hours);
    EXPECT_NEAR(check.hours_per_trillion(), hours / 14.8, 1e-9 * hours);
    EXPECT_NEAR(check.predicted.dollars, 2 * hours, 1e-9 * hours);
    EXPECT_NEAR(check.predicted.device_hours, 2.664e6, 0.10 * 2.664e6);
    EXPECT_NEAR(check.hours_per_trillion(), 180e3, 0.10 * 180e3);
    EXPECT_NEAR(check.predicted.dollars, 5.328e6, 0.10 * 5.328e6);
    EXPECT_EQ(check.run.published_device_hours(), 2.664e6);
    EXPECT_EQ(check.run.published_hours_per_trillion(), 180e3);
    EXPECT_EQ(check.run.published_dollars(), 5.328e6);
  }
  EXPECT_EQ(found, 1);
}

constexpr char kKnown[] = "launch/published/qwen3_30b_h100_automodel.textproto";

TEST(PublishedRuns, AFileOfAUserIsPredictedLikeTheBundledOnes) {
  const std::string dir = TestFolder(), mine = dir + "/mine.textproto";
  std::string text = ReadAll(testing::SourcePath(kKnown));
  ASSERT_THAT(text, HasSubstr("name: \"qwen3_30b_h100_automodel\"\n"));
  absl::StrReplaceAll({{"name: \"qwen3_30b_h100_automodel\"\n", ""}}, &text);
  std::ofstream(mine) << text;
  const Outcome one = RunSluice("plan --json --run " + mine);
  ASSERT_EQ(one.exit_code, 0) << one.err;
  const nlohmann::json row = nlohmann::json::parse(one.out)["runs"][0];
  EXPECT_EQ(row["name"], mine) << "a run without a name has its file's";
  EXPECT_FALSE(row.contains("left_out_error")) << "there is no other row";
  for (const Preset& bundled : PublishedRuns()) {
    if (bundled.name != "qwen3_30b_h100_automodel") continue;
    const PublishedCheck check = CheckPublishedRuns({bundled}, 0.2).value()[0];
    EXPECT_EQ(row["predicted_seconds"].get<double>(), check.predicted.step_seconds);
    EXPECT_EQ(row["published_seconds"].get<double>(), check.published_seconds);
  }
  const Outcome two = RunSluice("plan --run " + mine + " --run " + testing::SourcePath(kKnown));
  ASSERT_EQ(two.exit_code, 0) << two.err;
  EXPECT_THAT(two.out, HasSubstr("2 of 2 rows meet their target"));
}

TEST(PublishedRuns, ABadFileEndsInOneSentence) {
  const std::string dir = TestFolder(), mine = dir + "/mine.textproto";
  const std::string good = ReadAll(testing::SourcePath(kKnown));
  for (const auto& [from, to, sentence] : {
           std::tuple("ranks: 8\n", "", "mine.textproto: ranks: found 0, wanted 1 to"),
           std::tuple(
               "ranks: 8\n", "ranks: 8 pipe: 3\n",
               "mine.textproto: ranks: found 8, wanted a multiple of pipe x tensor x context"),
           std::tuple("tokens_per_second_rank: 12040\n", "",
                      "mine.textproto: step_seconds: found nothing"),
           std::tuple("preset: \"qwen3_30b_a3b\"", "preset: \"qwen4\"", "qwen4"),
           std::tuple("cluster: \"h100\"", "cluster: \"h101\"", "found \"h101\""),
           std::tuple("expert: 8\n", "expert: 7\n",
                      "mine.textproto: expert: found 7, wanted a divisor"),
           std::tuple("microbatch: 4\n", "microbatch: 5\n", "mine.textproto: batch: found 512"),
           std::tuple("microbatch: 4\n", "microbatch: 70000 global_batch: 2000000000\n",
                      "mine.textproto:"),
           std::tuple("microbatch: 4\nglobal_batch: 512\n",
                      "microbatch: 1\nglobal_batch: 2000000000\n",
                      "mine.textproto: global_batch: found 2000000000, wanted at most 400000000"),
           std::tuple("precision: \"BF16\"\n", "precision: \"BF16\"\nmtp_depth: 2000000000\n",
                      "mine.textproto: mtp_depth: found 2000000000, wanted 0 to 16"),
           std::tuple("expert: 8\n", "expert: eight\n", "mine.textproto:"),
       }) {
    ASSERT_THAT(good, HasSubstr(from));
    std::ofstream(mine, std::ios::trunc) << absl::StrReplaceAll(good, {{from, to}});
    const Outcome outcome = RunSluice("plan --run " + mine);
    EXPECT_EQ(outcome.exit_code, 1) << to;
    EXPECT_THAT(outcome.err, HasSubstr(sentence));
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_EQ(outcome.out, "");
  }
  EXPECT_THAT(RunSluice("plan --run " + dir + "/none").err, HasSubstr("cannot read this file"));
}

}  // namespace
}  // namespace sluice::launch
