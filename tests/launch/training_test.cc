// What a run does between its first and its last step, seen from outside: schedules of the rate,
// text samples, fill-in-the-middle, steps that are not finite, and the memory it says it holds.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/launch/json_rows.h"
#include "tests/launch/running_program.h"
#include "tests/launch/tiny_run.h"

namespace sluice::launch {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

class Training : public TinyRunTest {
 protected:
  std::vector<Json> Metrics(const std::string& name,
                            const std::string& file_name = "metrics.jsonl") const {
    return JsonRows(RunDir(name) + "/" + file_name);
  }
  static std::vector<std::string> LinesWith(const std::string& part, const std::string& text) {
    std::vector<std::string> found;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      if (line.find(part) != std::string::npos) found.push_back(line);
    }
    return found;
  }

  // What the line about resident memory says, in MiB: within a tenth of the table, or 16 MiB where
  // that is more.
  static double TableBesideResident(const std::string& out) {
    const std::vector<std::string> lines = LinesWith("resident memory since the start", out);
    double resident = 0, beside = 0;
    EXPECT_EQ(lines.size(), 1u) << out;
    EXPECT_EQ(std::sscanf(lines.empty() ? "" : lines[0].c_str(),
                          "resident memory since the start: %lf MiB, %lf MiB beside the table",
                          &resident, &beside),
              2)
        << out;
    const double table = resident - beside;
    EXPECT_LE(std::abs(beside), std::max(0.1 * table, 16.0)) << lines.at(0);
    return table;
  }

  // Three steps of the preset that fills a laptop's cache, on the test's text.
  std::string BenchCommand(const std::string& precision) const {
    return "train --preset bench_cpu" +
           Sets({"data.bundled_sample=false", "data.train=" + dir_ + "/train.txt",
                 "data.train_vocab_size=300", "train.steps=3", "eval.batches=1",
                 "checkpoint.every=2", "compute.precision=" + precision,
                 "run.dir=" + RunDir(precision)});
  }

  // documents.jsonl, and its token file with a vocabulary of 266 tokens. Such a vocabulary lacks
  // the three tokens of fill-in-the-middle: with them, they are added to its tokenizer.json.
  void TokenizeDocuments(bool with_fim_tokens) const {
    std::string lines;
    for (int i = 0; i < 400; ++i) {
      lines += Json{{"text", "Document " + std::to_string(i * 7) + " ends with " +
                                 std::to_string(i * i) + "."}}
                   .dump() +
               "\n";
    }
    std::ofstream(dir_ + "/documents.jsonl") << lines;
    std::filesystem::remove(Tokenizer());  // of an earlier call
    const std::string tokenize =
        "tokenize --output " + dir_ + "/documents.tokens --tokenizer " + Tokenizer() + " ";
    Outcome made = RunSluice(tokenize + "--vocab-size 266 " + dir_ + "/documents.jsonl");
    ASSERT_EQ(made.exit_code, 0) << made.err;
    if (!with_fim_tokens) return;
    Json json = Json::parse(ReadAll(Tokenizer()));
    int id = 266;
    for (const char* token : {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"}) {
      json["added_tokens"].push_back({{"id", id++},
                                      {"content", token},
                                      {"single_word", false},
                                      {"lstrip", false},
                                      {"rstrip", false},
                                      {"normalized", false},
                                      {"special", true}});
    }
    std::ofstream(Tokenizer()) << json.dump();
    made = RunSluice(tokenize + dir_ + "/documents.jsonl");
    ASSERT_EQ(made.exit_code, 0) << made.err;
  }
  std::string Tokenizer() const { return dir_ + "/tokenizer.json"; }
};

// A rate that throws the weights out of FP32's range in the first step.
TEST_F(Training, ThreeStepsInARowThatAreNotFiniteSaveAndEndTheRun) {
  const std::vector<std::string> edits = {
      "train.lr.peak=1e38", "train.lr.schedule=constant",   "train.lr.warmup_steps=0",
      "train.clip_norm=0",  "train.max_skipped_in_a_row=3", "checkpoint.every=0"};
  const Outcome outcome = Train("run", 4, edits);
  EXPECT_NE(outcome.exit_code, 0);
  EXPECT_THAT(outcome.err, HasSubstr("loss or gradient was not finite in 3 steps in a row"));
  EXPECT_THAT(outcome.err, HasSubstr(RunDir("run") + "/checkpoints"));
  EXPECT_EQ(LinesWith("SKIPPED: not finite", outcome.out).size(), 3u) << outcome.out;
  const std::vector<Json> rows = Metrics("run");
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_FALSE(rows[0]["skipped"]);
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i]["skipped"], i > 0) << i;
    EXPECT_EQ(rows[i]["skipped_so_far"], i);
  }
  ASSERT_EQ(Generations("run").size(), 1u);
  EXPECT_THAT(Generations("run")[0], HasSubstr("step-0000000004-"));
  const auto saved = Digest(RunDir("run"));

  // The count goes on: one more such step is one too many. No step of the five touched the state of
  // the first.
  const Outcome again = Train("run", 4, edits);
  EXPECT_NE(again.exit_code, 0);
  EXPECT_THAT(again.err, HasSubstr("not finite in 4 steps in a row (step 5)"));
  ASSERT_EQ(Train("first", 4,
                  {"train.lr.peak=1e38", "train.lr.schedule=constant", "train.steps=1",
                   "train.lr.warmup_steps=0", "train.clip_norm=0"})
                .exit_code,
            0);
  const auto state_of = [](std::vector<std::string> digest) {
    std::erase_if(digest, [](const std::string& line) {
      return line.find("master/") == std::string::npos && line.find("adam_") == std::string::npos &&
             line.find("e_score_correction_bias") == std::string::npos;
    });
    return digest;
  };
  EXPECT_GT(state_of(saved).size(), 60u);
  EXPECT_EQ(state_of(saved), state_of(Digest(RunDir("first"))));
  EXPECT_EQ(state_of(Digest(RunDir("run"))), state_of(saved));
}

TEST_F(Training, SamplesAndEvaluationsComeWhenDueAndChangeNoStep) {
  const std::vector<std::string> wsd = {"train.steps=12",         "train.lr.schedule=wsd",
                                        "train.lr.peak=0.001",    "train.lr.warmup_steps=4",
                                        "train.lr.decay_steps=4", "train.lr.final_ratio=0.5"};
  std::vector<std::string> sampled = wsd;
  sampled.insert(sampled.end(),
                 {"eval.sample_every=5", "eval.sample_prompt=The", "eval.sample_tokens=12",
                  "eval.every=4", "data.validation=" + dir_ + "/validation.txt"});
  const Outcome one = Train("one", 1, sampled), four = Train("four", 4, sampled),
                plain = Train("plain", 4, wsd);
  for (const Outcome* outcome : {&one, &four, &plain})
    ASSERT_EQ(outcome->exit_code, 0) << outcome->err;
  for (const Outcome* outcome : {&one, &four}) {
    EXPECT_EQ(LinesWith("sample after step ", outcome->out).size(), 2u) << outcome->out;
    EXPECT_THAT(outcome->out, HasSubstr("sample after step 5: The"));
    EXPECT_THAT(outcome->out, HasSubstr("sample after step 10: The"));
    EXPECT_EQ(LinesWith("eval after step ", outcome->out).size(), 3u) << outcome->out;
  }
  const std::vector<Json> evaluations = Metrics("four", "eval.jsonl");
  ASSERT_EQ(evaluations.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(evaluations[i]["step"], 4 * (i + 1));
    EXPECT_EQ(evaluations[i]["tokens"], evaluations[0]["tokens"]);
    EXPECT_GT(evaluations[i]["bits_per_byte"], 0);
  }
  EXPECT_LT(evaluations[2]["loss"], evaluations[0]["loss"]);
  EXPECT_THAT(plain.out, Not(HasSubstr("sample after")));
  EXPECT_EQ(Rows("four"), Rows("plain"));
  EXPECT_EQ(Digest(RunDir("four")), Digest(RunDir("plain")));
  const std::vector<double> rates = {0.25e-3, 0.5e-3, 0.75e-3,  1e-3,    1e-3,     1e-3,
                                     1e-3,    1e-3,   0.875e-3, 0.75e-3, 0.625e-3, 0.5e-3};
  const std::vector<Json> rows = Metrics("four");
  ASSERT_EQ(rows.size(), rates.size());
  for (size_t i = 0; i < rates.size(); ++i)
    EXPECT_NEAR(rows[i]["learning_rate"], rates[i], 1e-12) << "step " << i + 1;
}

// Documents of the training text in fill-in-the-middle form: other batches than without, and the
// same on every layout.
TEST_F(Training, FillInTheMiddleNeedsItsTokensAndIsAFunctionOfTheSample) {
  TokenizeDocuments(/*with_fim_tokens=*/false);
  std::vector<std::string> edits = {"data.train=" + dir_ + "/documents.tokens",
                                    "data.tokenizer=" + Tokenizer(), "data.fim_rate=0.5",
                                    "data.document_mask=true", "train.steps=6"};
  const Outcome without = Train("without", 1, edits);
  EXPECT_EQ(without.exit_code, 1);
  EXPECT_THAT(without.err, HasSubstr("<|fim_prefix|>"));

  TokenizeDocuments(/*with_fim_tokens=*/true);
  const Outcome one = Train("one", 1, edits), four = Train("four", 4, edits);
  ASSERT_EQ(one.exit_code, 0) << one.err;
  ASSERT_EQ(four.exit_code, 0) << four.err;
  const std::vector<Json> by_one = Metrics("one"), by_four = Metrics("four");
  // Step 1 is the same to the bit on every layout, for the batches are.
  EXPECT_EQ(by_one[0]["loss_hex"], by_four[0]["loss_hex"]);
  EXPECT_EQ(by_one[0]["mtp_loss_hex"], by_four[0]["mtp_loss_hex"]);
  edits[2] = "data.fim_rate=0";
  ASSERT_EQ(Train("plain", 1, edits).exit_code, 0);
  EXPECT_NE(Metrics("plain")[0]["loss_hex"], by_one[0]["loss_hex"]);

  edits[2] = "data.fim_rate=0.25";
  EXPECT_THAT(Train("one", 1, edits).err, HasSubstr("data.fim_rate: found 0.25, wanted 0.5"));
}

// Two weighted sources, fill-in-the-middle, the document mask and a batch that grows, in BF16:
// stopped in the middle and resumed, the same bits; resumed on another mesh, the same batches.
TEST_F(Training, AMixtureWithEverythingResumesToTheBitAndReadsTheSameOnAnotherMesh) {
  TokenizeDocuments(/*with_fim_tokens=*/true);
  const Outcome numbers = RunSluice("tokenize --output " + dir_ + "/numbers.tokens --tokenizer " +
                                    Tokenizer() + " " + dir_ + "/train.txt");
  ASSERT_EQ(numbers.exit_code, 0) << numbers.err;
  // Weights are set in a file only.
  std::string config = ReadAll(testing::SourcePath("launch/presets/tiny.textproto"));
  const std::string place = "bundled_sample: true";
  ASSERT_NE(config.find(place), std::string::npos);
  config.replace(config.find(place), place.size(),
                 "train { path: \"" + dir_ + "/documents.tokens\" weight: 3 } train { path: \"" +
                     dir_ + "/numbers.tokens\" weight: 1 }");
  std::ofstream(dir_ + "/mixture.textproto") << config;
  const std::vector<std::string> edits = {
      "data.tokenizer=" + Tokenizer(), "data.fim_rate=0.5",       "data.document_mask=true",
      "compute.precision=BF16",        "train.moment_dtype=BF16", "train.batch_ramp_start=2",
      "train.batch_ramp_steps=30",     "train.steps=40",          "checkpoint.keep=9"};
  const auto command = [&](const std::string& name, int ranks) {
    std::string line = TrainCommand(name, ranks, edits);
    for (const std::string& part :
         {std::string("--preset tiny"), "--set data.train=" + dir_ + "/train.txt"}) {
      const size_t at = line.find(part);
      EXPECT_NE(at, std::string::npos) << part;
      line.replace(at, part.size(),
                   part[2] == 'p' ? "--config " + dir_ + "/mixture.textproto" : "");
    }
    return line;
  };
  const Outcome whole = RunShell(command("whole", 4));
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  {
    RunningProgram first(command("stopped", 4));
    ASSERT_TRUE(first.WaitFor("step  7/")) << first.output();
    kill(first.pid(), SIGUSR1);
    ASSERT_EQ(first.Wait(), 0) << first.output();
    ASSERT_THAT(first.output(), HasSubstr("asked to stop"));
  }
  const size_t done = Rows("stopped").size();
  ASSERT_LT(done, 40u);
  std::filesystem::copy(RunDir("stopped"), RunDir("moved"),
                        std::filesystem::copy_options::recursive);
  const Outcome again = RunShell(command("stopped", 4));
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(Rows("stopped"), Rows("whole"));
  EXPECT_EQ(Digest(RunDir("stopped")), Digest(RunDir("whole")));

  const Outcome moved = RunShell(command("moved", 2));
  ASSERT_EQ(moved.exit_code, 0) << moved.err;
  EXPECT_THAT(moved.out, HasSubstr("mesh.pipe: 2 -> 1"));
  const std::vector<Json> rows = Metrics("moved"), wanted = Metrics("whole");
  ASSERT_EQ(rows.size(), wanted.size());
  // The first step after the move starts from the same weights: its loss is equal to the bit if and
  // only if its batch is. Later weights differ in the last bits.
  EXPECT_EQ(rows[done]["loss_hex"], wanted[done]["loss_hex"]);
  for (size_t i = done; i < rows.size(); ++i) {
    const double loss = wanted[i]["loss"];
    EXPECT_NEAR(rows[i]["loss"], loss, 1e-2 * loss) << i;
    EXPECT_EQ(rows[i]["tokens"], wanted[i]["tokens"]) << i;
  }
}

// Runs that begin at once make vocabulary and token files of one folder together.
TEST_F(Training, RunsThatBeginAtOnceShareAnEmptyCache) {
  WriteText(dir_ + "/train.txt", 3, 400'000);  // takes a while to tokenize
  constexpr int kRuns = 3;
  std::vector<std::unique_ptr<RunningProgram>> runs;
  for (int i = 0; i < kRuns; ++i) {
    runs.push_back(std::make_unique<RunningProgram>(
        TrainCommand("run" + std::to_string(i), 1, {"train.steps=1"})));
  }
  for (auto& run : runs) EXPECT_EQ(run->Wait(), 0) << run->output();
  for (int i = 1; i < kRuns; ++i) EXPECT_EQ(Rows("run" + std::to_string(i)), Rows("run0"));
  for (const auto& entry : std::filesystem::directory_iterator(dir_ + "/cache")) {
    EXPECT_EQ(entry.path().string().find("partial"), std::string::npos) << entry.path();
  }
}

// The table of memory against what the system says.
TEST_F(Training, ResidentMemoryIsWhatTheTableSays) {
  for (const char* precision : {"FP32", "BF16"}) {
    const Outcome outcome = RunSluice(BenchCommand(precision) + Sets({"compute.threads=2"}));
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_GT(TableBesideResident(outcome.out), 200)
        << "15.7 million parameters with optimizer and activations";
    // Every buffer that grew was said to: the last line of a kind is what the run ends with.
    const size_t end = outcome.out.find("memory of rank 0 at the end:");
    ASSERT_NE(end, std::string::npos) << outcome.out;
    for (const std::string kind : {"activations", "communication", "scratch"}) {
      const auto growths = LinesWith(": " + kind + " of rank 0 grew from ", outcome.out);
      ASSERT_FALSE(growths.empty()) << kind << "\n" << outcome.out;
      const double held = std::stod(growths.back().substr(growths.back().find(" to ") + 4));
      const double last = growths.back().find(" KiB") != std::string::npos ? held / 1024 : held;
      const std::string row = LinesWith("  " + kind, outcome.out.substr(end)).at(0);
      EXPECT_NEAR(std::stod(row.substr(2 + kind.size())), last, 0.06) << row;
    }
  }
}

// The line is of the rank that is furthest from its table.
TEST_F(Training, ResidentMemoryOfFourRanksIsWhatTheirTablesSay) {
  const Outcome outcome = RunShell(testing::SourcePath("launch/run -np 4 ") + SLUICE_BINARY + " " +
                                   BenchCommand("BF16") + Sets(kFourRanks) +
                                   Sets({"train.microbatch=2", "compute.threads=1"}));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_GT(TableBesideResident(outcome.out), 50) << "a quarter of 15.7 million parameters";
  EXPECT_THAT(outcome.out, HasSubstr(" of 4)"));
}

}  // namespace
}  // namespace sluice::launch
