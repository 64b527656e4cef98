// Stopped and started again: the same run as if nothing had happened, or a refusal by name.
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/launch/running_program.h"
#include "tests/launch/tiny_run.h"

namespace sluice::launch {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class Resume : public TinyRunTest {
 protected:
  // Runs until `step`, asks to stop, and starts the same command again until the end.
  void InterruptAndFinish(const std::string& name, int ranks,
                          const std::vector<std::string>& edits) {
    RunningProgram first(TrainCommand(name, ranks, edits));
    ASSERT_TRUE(first.WaitFor("step  7/")) << first.output();
    kill(first.pid(), SIGUSR1);
    ASSERT_EQ(first.Wait(), 0) << first.output();
    ASSERT_THAT(first.output(), HasSubstr("asked to stop"));
    const Outcome second = Train(name, ranks, edits);
    ASSERT_EQ(second.exit_code, 0) << second.err;
    EXPECT_THAT(second.out, HasSubstr("resuming " + RunDir(name) + "/checkpoints/step-"));
    EXPECT_THAT(second.out, Not(HasSubstr("changed since then")));
  }

  void ExpectEqualToUninterrupted(int ranks, const std::vector<std::string>& edits) {
    const Outcome whole = Train("whole", ranks, edits);
    ASSERT_EQ(whole.exit_code, 0) << whole.err;
    InterruptAndFinish("stopped", ranks, edits);
    EXPECT_EQ(Rows("whole").size(), 60u);
    EXPECT_EQ(Rows("stopped"), Rows("whole"));
    EXPECT_EQ(Digest(RunDir("stopped")), Digest(RunDir("whole")));
  }
};

// Sixty steps, so that the signal comes before the end.
TEST_F(Resume, OneRankContinuesToTheBit) { ExpectEqualToUninterrupted(1, {"train.steps=60"}); }
TEST_F(Resume, FourRanksContinueToTheBit) { ExpectEqualToUninterrupted(4, {"train.steps=60"}); }
TEST_F(Resume, DualPipeContinuesToTheBit) {
  ExpectEqualToUninterrupted(4, {"train.steps=60", "schedule=dualpipe"});
}
TEST_F(Resume, Bf16WithBatchRampContinuesToTheBit) {
  ExpectEqualToUninterrupted(
      4, {"train.steps=60", "compute.precision=BF16", "train.moment_dtype=BF16",
          "train.batch_ramp_start=2", "train.batch_ramp_steps=30", "data.document_mask=true"});
}

const std::vector<std::string> kFp8 = {
    "train.steps=60",         "compute.precision=FP8",  "train.moment_dtype=BF16",
    "fp8.swiglu_cache=true",  "fp8.o_proj_cache=E5M6",  "fp8.report_every=4",
    "fp8.demote_above=0.035", "train.ema_decay=0.9375",
};
TEST_F(Resume, Fp8OnFourRanksContinuesToTheBit) { ExpectEqualToUninterrupted(4, kFp8); }

// Without a word, and so from the last checkpoint.
TEST_F(Resume, Fp8GoesOnAfterAKillAsIfThereHadBeenNone) {
  const Outcome whole = Train("whole", 1, kFp8);
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  // Some layers leave FP8 before the kill: the checkpoint knows.
  EXPECT_THAT(whole.out, ::testing::ContainsRegex("step [48]: model.layers.* goes on in BF16"));
  RunningProgram first(TrainCommand("killed", 1, kFp8));
  ASSERT_TRUE(first.WaitFor("step 13/")) << first.output();
  kill(first.pid(), SIGKILL);
  ASSERT_NE(first.Wait(), 0);
  const Outcome second = Train("killed", 1, kFp8);
  ASSERT_EQ(second.exit_code, 0) << second.err;
  EXPECT_THAT(second.out, HasSubstr("resuming " + RunDir("killed") + "/checkpoints/step-"));
  EXPECT_EQ(Rows("killed"), Rows("whole"));
  EXPECT_EQ(Digest(RunDir("killed")), Digest(RunDir("whole")));
  EXPECT_THAT(Digest(RunDir("whole")), ::testing::Contains(HasSubstr("ema/")));
}

TEST_F(Resume, ADamagedNewestCheckpointIsPassedOverAndTheLogSaysSo) {
  ASSERT_EQ(Train("run", 1, {"train.steps=10"}).exit_code, 0);
  const auto rows = Rows("run"), digest = Digest(RunDir("run"));
  const std::vector<std::string> generations = Generations("run");
  ASSERT_EQ(generations.size(), 2u);
  FlipByte(ShardOf(generations[1]), 0.6);
  const Outcome again = Train("run", 1, {"train.steps=10"});
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("checkpoint " + generations[1] + " is passed over: "));
  EXPECT_THAT(again.out, HasSubstr("resuming " + generations[0] + " after step 5"));
  EXPECT_EQ(Rows("run"), rows);
  EXPECT_EQ(Digest(RunDir("run")), digest);
}

TEST_F(Resume, RowsPastTheCheckpointAndTornRowsAreDropped) {
  const std::string metrics = RunDir("run") + "/metrics.jsonl";
  ASSERT_EQ(Train("run", 1, {"train.steps=6"}).exit_code, 0);
  const auto rows = Rows("run");
  std::ofstream(metrics, std::ios::app) << "{\"step\":7}\n{\"step\":8,\"lo";
  EXPECT_EQ(Train("run", 1, {"train.steps=6"}).exit_code, 0);
  EXPECT_EQ(Rows("run"), rows);
  // The last line end is missing: the next row must not join this one.
  std::filesystem::resize_file(metrics, std::filesystem::file_size(metrics) - 1);
  EXPECT_EQ(Train("run", 1, {"train.steps=7"}).exit_code, 0);
  EXPECT_EQ(Rows("run").size(), 7u);
}

TEST_F(Resume, AFinishedRunSaysSoAndMayBeMadeLonger) {
  ASSERT_EQ(Train("run", 1, {"train.steps=5"}).exit_code, 0);
  const auto rows = Rows("run"), digest = Digest(RunDir("run"));
  const Outcome again = Train("run", 1, {"train.steps=5"});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("this run is finished: step 5 of train.steps = 5"));
  EXPECT_EQ(Rows("run"), rows);
  EXPECT_EQ(Digest(RunDir("run")), digest);

  const Outcome longer = Train("run", 4, {"train.steps=6"});
  EXPECT_EQ(longer.exit_code, 0) << longer.err;
  EXPECT_THAT(longer.out, HasSubstr("changed since then:\n"));
  EXPECT_THAT(longer.out, HasSubstr("train.steps: 5 -> 6"));
  EXPECT_THAT(longer.out, HasSubstr("mesh.pipe: 1 -> 2"));
  EXPECT_EQ(Rows("run").size(), 6u);
}

TEST_F(Resume, AnotherRunIsRefusedByTheNameOfTheFieldAndNothingIsTouched) {
  WriteText(dir_ + "/other.txt", 7, 40'000);
  const Outcome tokenizer =
      RunSluice("tokenize --vocab-size 270 --tokenizer " + dir_ + "/other.json --output " + dir_ +
                "/other.tokens " + dir_ + "/other.txt");
  ASSERT_EQ(tokenizer.exit_code, 0) << tokenizer.err;
  ASSERT_EQ(Train("run", 1, {"train.steps=5"}).exit_code, 0);
  const auto before = Contents("run");
  const auto expect = [&](const std::string& edit, const std::string& field) {
    const Outcome outcome = Train("run", 1, {"train.steps=6", edit});
    EXPECT_EQ(outcome.exit_code, 1) << edit;
    EXPECT_THAT(outcome.err, HasSubstr("sluice: " + field + ": found ")) << edit;
    EXPECT_THAT(outcome.err, HasSubstr("as in the checkpoint of this run")) << edit;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_EQ(Contents("run"), before) << edit;
  };
  expect("model.hidden_size=64", "model.hidden_size");
  expect("model.routed_scaling_factor=2", "model.routed_scaling_factor");
  expect("train.seed=9", "train.seed");
  expect("train.global_batch=16", "train.global_batch");
  expect("train.sequence_length=16", "train.sequence_length");
  expect("data.document_mask=true", "data.document_mask");
  expect("data.train=" + dir_ + "/other.txt", "data.train");
  expect("data.tokenizer=" + dir_ + "/other.json", "data.tokenizer");

  const Outcome four = Train("run", 4, {"train.steps=6", "train.seed=9"});
  EXPECT_NE(four.exit_code, 0);
  EXPECT_THAT(four.err, HasSubstr("sluice: train.seed: found 9, wanted 1"));
  EXPECT_EQ(Contents("run"), before);
}

TEST_F(Resume, TheSameTextElsewhereIsTheSameData) {
  ASSERT_EQ(Train("run", 1, {"train.steps=5"}).exit_code, 0);
  std::filesystem::copy_file(dir_ + "/train.txt", dir_ + "/moved.txt");
  const Outcome outcome = Train(
      "run", 1,
      {"train.steps=6", "data.train=" + dir_ + "/moved.txt", "data.cache_dir=" + dir_ + "/c2"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("data.train.path: "));
  EXPECT_EQ(Rows("run").size(), 6u);
}

TEST_F(Resume, InitFromTakesTheWeightsAndNothingElse) {
  ASSERT_EQ(Train("old", 4, {"train.steps=5"}).exit_code, 0);
  const auto before = Contents("old");
  // At rate 0 a step leaves every weight as it was.
  const Outcome outcome =
      Train("new", 1,
            {"train.steps=1", "train.lr.peak=0", "train.seed=3", "run.init_from=" + RunDir("old")});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("weights from " + Generations("old").back()));
  EXPECT_EQ(Rows("new").size(), 1u);
  EXPECT_EQ(Contents("old"), before);
  const auto old_lines = Digest(RunDir("old")), new_lines = Digest(RunDir("new"));
  ASSERT_EQ(old_lines.size(), new_lines.size());
  int masters = 0, moments = 0;
  for (size_t i = 0; i < old_lines.size(); ++i) {
    const bool is_master = old_lines[i].find("master/") != std::string::npos;
    masters += is_master ? 1 : 0;
    if (is_master) {
      EXPECT_EQ(new_lines[i], old_lines[i]);
    }
    if (old_lines[i].find("adam_m/") == std::string::npos) continue;
    ++moments;
    EXPECT_NE(new_lines[i], old_lines[i]);
  }
  EXPECT_GT(masters, 20);
  EXPECT_EQ(moments, masters);
}

}  // namespace
}  // namespace sluice::launch
