// What the world can get wrong before and during a run: one clear sentence, and nothing lost.
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launch/machine.h"
#include "tests/launch/running_program.h"
#include "tests/launch/tiny_run.h"

namespace sluice::launch {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class BadInput : public TinyRunTest {
 protected:
  // The command fails with one sentence on stderr that has `parts`.
  static void ExpectRefusal(const std::string& command, const std::vector<std::string>& parts) {
    const Outcome outcome = RunShell(command);
    EXPECT_EQ(outcome.exit_code, 1) << command << outcome.out;
    EXPECT_THAT(outcome.err, StartsWith("sluice: "));
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    for (const std::string& part : parts) EXPECT_THAT(outcome.err, HasSubstr(part));
  }

  // A token file of the training text and its vocabulary.
  void Tokenize() {
    const Outcome outcome =
        RunSluice("tokenize --vocab-size 272 --tokenizer " + dir_ + "/tokenizer.json --output " +
                  dir_ + "/train.tokens " + dir_ + "/train.txt");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }
  std::vector<std::string> TokenEdits(const std::string& more = "train.seed=1") const {
    return {"data.train=" + dir_ + "/train.tokens", "data.tokenizer=" + dir_ + "/tokenizer.json",
            more};
  }
};

TEST_F(BadInput, FilesThatAreNotThereAreNamed) {
  const std::string none = dir_ + "/none";
  ExpectRefusal(TrainCommand("a", 1, {"data.train=" + none}), {"data.train: ", none});
  ExpectRefusal(TrainCommand("b", 1, {"data.validation=" + none}), {"data.validation: ", none});
  ExpectRefusal(TrainCommand("c", 1, {"data.tokenizer=" + none}), {none});
  ExpectRefusal(TrainCommand("d", 1, {"run.init_from=" + none}), {none, "no checkpoint"});
  ExpectRefusal(TrainCommand("f", 1,
                             {"compute.precision=BF16", "compute.keep_fp8_weights=true",
                              "finetune.freeze=layers"}),
                {"run.init_from: found nothing, wanted a model in FP8"});
  // The same from four ranks, said once.
  const Outcome four = RunShell(TrainCommand("e", 4, {"data.train=" + none}));
  EXPECT_NE(four.exit_code, 0);
  const size_t first = four.err.find("sluice: ");
  ASSERT_NE(first, std::string::npos) << four.err;
  EXPECT_EQ(four.err.find("sluice: ", first + 1), std::string::npos) << four.err;
}

TEST_F(BadInput, AMeshThatDoesNotMultiplyIsNamedWithItsProduct) {
  ExpectRefusal(TrainCommand("run", 1, {"mesh.pipe=2", "mesh.data=3"}), {"mesh", "6", "1"});
  EXPECT_FALSE(fs::exists(RunDir("run")));
}

// A million tokens of each microbatch, so wide that their activations take more than the machine
// has.
TEST_F(BadInput, ARunThatWouldNotFitIntoTheMachineIsRefusedBeforeItTakesAnything) {
  const int64_t width = 64 * (1 + ReadMemorySize().total_bytes / (int64_t{1} << 20) / 64);
  const std::vector<std::string> edits = {
      "train.sequence_length=512", "model.max_position_embeddings=512", "train.global_batch=2048",
      "train.microbatch=2048", "model.hidden_size=" + std::to_string(width)};
  ExpectRefusal(TrainCommand("run", 1, edits),
                {"memory: found ", " GiB free on host ", ", wanted ", "for its 1 rank (",
                 "lower train.microbatch (2048), or set run.check_memory=false"});
  EXPECT_FALSE(fs::exists(RunDir("run") + "/config.textproto"));
}

TEST_F(BadInput, ADamagedTokenFileIsNotTakenForText) {
  Tokenize();
  const std::string tokens = dir_ + "/train.tokens", whole = ReadAll(tokens);
  FlipByte(tokens, 0.002);  // in its header
  ExpectRefusal(TrainCommand("a", 1, TokenEdits()), {tokens, "damaged"});
  std::ofstream(tokens, std::ios::binary | std::ios::trunc) << whole.substr(0, whole.size() / 2);
  ExpectRefusal(TrainCommand("b", 1, TokenEdits()), {tokens, "truncated"});
  ExpectRefusal(TrainCommand("c", 1, {"data.validation=" + tokens}), {tokens, "truncated"});
}

TEST_F(BadInput, ADamagedChunkStopsTheRunThatReadsItAndKeepsItsCheckpoint) {
  Tokenize();
  const std::string tokens = dir_ + "/train.tokens";
  ASSERT_EQ(Train("run", 1, TokenEdits("train.steps=5")).exit_code, 0);
  const auto before = Contents("run");
  FlipByte(tokens, 0.5);
  ExpectRefusal(TrainCommand("run", 1, TokenEdits("train.steps=9")), {tokens, "chunk"});
  for (const auto& [path, summary] : before) {
    if (path.find("config.textproto") != std::string::npos) continue;  // knows the new steps
    EXPECT_EQ(Summary(ReadAll(path)), summary) << path;
  }
}

TEST_F(BadInput, WithoutAWholeCheckpointARunDoesNotBeginAnew) {
  ASSERT_EQ(Train("run", 1, {"train.steps=10"}).exit_code, 0);
  ASSERT_EQ(Generations("run").size(), 2u);
  for (const std::string& generation : Generations("run")) {
    const std::string shard = ShardOf(generation);
    fs::resize_file(shard, fs::file_size(shard) - 1);
  }
  const auto before = Contents("run");
  ExpectRefusal(TrainCommand("run", 1, {"train.steps=20"}),
                {"none of the 2 checkpoints in " + RunDir("run"), "bytes"});
  EXPECT_EQ(Contents("run"), before);
  const Outcome eval = RunSluice("eval --checkpoint " + RunDir("run"));
  EXPECT_EQ(eval.exit_code, 1);
  EXPECT_THAT(eval.err, HasSubstr("none of the 2 checkpoints"));
}

TEST_F(BadInput, AVocabularyLargerThanTheModelsIsRefused) {
  Tokenize();
  ExpectRefusal(TrainCommand("run", 1, TokenEdits("model.vocab_size=256")),
                {"model.vocab_size: found 256", "272"});
}

TEST_F(BadInput, TokensOfAnotherVocabularyAreRefused) {
  Tokenize();
  WriteText(dir_ + "/other.txt", 7, 20'000);
  ASSERT_EQ(RunSluice("tokenize --vocab-size 270 --tokenizer " + dir_ + "/other.json --output " +
                      dir_ + "/other.tokens " + dir_ + "/other.txt")
                .exit_code,
            0);
  ExpectRefusal(TrainCommand("run", 1, TokenEdits("data.tokenizer=" + dir_ + "/other.json")),
                {dir_ + "/train.tokens", "tokenizer"});
}

TEST_F(BadInput, AFolderThatCannotBeMadeIsNamed) {
  const std::string below_a_file = dir_ + "/train.txt/run";
  ExpectRefusal(TrainCommand("train.txt/run", 1), {"run.dir: ", below_a_file});
  ExpectRefusal(TrainCommand("run", 1, {"data.cache_dir=" + below_a_file}),
                {"data.cache_dir", below_a_file});
}

// A file system of its own, as small as wanted.
class FullDisk : public BadInput {
 protected:
  void SetUp() override {
    BadInput::SetUp();
    fs::create_directory(dir_ + "/small");
    if (mount("tmpfs", (dir_ + "/small").c_str(), "tmpfs", 0, "size=4m") != 0) {
      GTEST_SKIP() << "a small file system cannot be mounted here (root can)";
    }
    is_mounted_ = true;
  }
  void TearDown() override {
    if (is_mounted_) {
      EXPECT_EQ(umount((dir_ + "/small").c_str()), 0);
    }
    BadInput::TearDown();
  }
  bool is_mounted_ = false;
};

TEST_F(FullDisk, IsRefusedBeforeTheFirstStep) {
  ExpectRefusal(TrainCommand("small/run", 1, {"model.hidden_size=256"}),
                {"checkpoints in " + RunDir("small/run"), "need ", " free"});
  EXPECT_FALSE(fs::exists(RunDir("small/run") + "/metrics.jsonl"));
}

TEST_F(FullDisk, InTheMiddleOfARunCostsNothingThatWasSaved) {
  const std::string ballast = dir_ + "/small/ballast";
  const std::string command =
      TrainCommand("small/run", 1, {"train.steps=100000", "checkpoint.keep=1"});
  RunningProgram run(command);
  ASSERT_TRUE(run.WaitFor("saved ")) << run.output();
  std::ofstream(ballast) << std::string(4 << 20, 'x');
  EXPECT_EQ(run.Wait(), 1);
  EXPECT_THAT(run.output(), HasSubstr("sluice: "));
  const auto digest = Digest(RunDir("small/run"));

  // Still full: refused. With room again: it goes on, and no row is missing or there twice.
  EXPECT_EQ(RunShell(command).exit_code, 1);
  EXPECT_EQ(Digest(RunDir("small/run")), digest);
  fs::remove(ballast);
  RunningProgram again(command);
  ASSERT_TRUE(again.WaitFor("resuming ")) << again.output();
  ASSERT_TRUE(again.WaitFor("saved ")) << again.output();
  kill(again.pid(), SIGTERM);
  EXPECT_EQ(again.Wait(), 0) << again.output();
  const auto rows = Rows("small/run");
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_THAT(rows[i], StartsWith(std::to_string(i + 1) + " "));
  }
}

TEST_F(BadInput, EvaluationNeedsTheCheckpointAndItsTextOnly) {
  ASSERT_EQ(Train("run", 1, {"train.steps=5"}).exit_code, 0);
  fs::remove(dir_ + "/train.txt");
  fs::remove_all(dir_ + "/cache");
  const std::string eval = "eval --checkpoint " + RunDir("run");
  const Outcome outcome = RunSluice(eval + " --json --text " + dir_ + "/validation.txt");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("bits_per_byte"));
  ExpectRefusal(SLUICE_BINARY " " + eval + " --text " + dir_ + "/none", {"none"});
  ExpectRefusal(SLUICE_BINARY " " + eval, {"data.validation", "--text"});
}

}  // namespace
}  // namespace sluice::launch
