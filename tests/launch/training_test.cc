// What a run does between its first and its last step, seen from outside: schedules of the rate,
// text samples, fill-in-the-middle, steps that are not finite, and the memory it says it holds.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/launch/tiny_run.h"

namespace sluice::launch {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

class Training : public TinyRunTest {
 protected:
  std::vector<Json> Metrics(const std::string& name) const {
    std::ifstream file(RunDir(name) + "/metrics.jsonl");
    std::vector<Json> rows;
    for (std::string line; std::getline(file, line);) rows.push_back(Json::parse(line));
    return rows;
  }
  static std::vector<std::string> LinesWith(const std::string& part, const std::string& text) {
    std::vector<std::string> found;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      if (line.find(part) != std::string::npos) found.push_back(line);
    }
    return found;
  }
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
  for (size_t i = 1; i < rows.size(); ++i) EXPECT_TRUE(rows[i]["skipped"]) << i;
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

TEST_F(Training, SamplesComeWhenDueAndChangeNoStep) {
  const std::vector<std::string> wsd = {"train.steps=12",         "train.lr.schedule=wsd",
                                        "train.lr.peak=0.001",    "train.lr.warmup_steps=4",
                                        "train.lr.decay_steps=4", "train.lr.final_ratio=0.5"};
  std::vector<std::string> sampled = wsd;
  sampled.insert(sampled.end(),
                 {"eval.sample_every=5", "eval.sample_prompt=The", "eval.sample_tokens=12"});
  const Outcome one = Train("one", 1, sampled), four = Train("four", 4, sampled),
                plain = Train("plain", 4, wsd);
  for (const Outcome* outcome : {&one, &four, &plain})
    ASSERT_EQ(outcome->exit_code, 0) << outcome->err;
  for (const Outcome* outcome : {&one, &four}) {
    EXPECT_EQ(LinesWith("sample after step ", outcome->out).size(), 2u) << outcome->out;
    EXPECT_THAT(outcome->out, HasSubstr("sample after step 5: The"));
    EXPECT_THAT(outcome->out, HasSubstr("sample after step 10: The"));
  }
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

// Documents of the training text in fill-in-the-middle form: other batches than without, the same
// on every layout, and resumed in the middle. A vocabulary of our own lacks the three tokens, so
// the test adds them to its tokenizer.json.
TEST_F(Training, FillInTheMiddleNeedsItsTokensAndIsAFunctionOfTheSample) {
  std::string lines;
  for (int i = 0; i < 400; ++i) {
    lines += Json{{"text", "Document " + std::to_string(i * 7) + " ends with " +
                               std::to_string(i * i) + "."}}
                 .dump() +
             "\n";
  }
  std::ofstream(dir_ + "/documents.jsonl") << lines;
  const std::string tokenizer = dir_ + "/tokenizer.json";
  const std::string tokenize =
      "tokenize --output " + dir_ + "/train.tokens --tokenizer " + tokenizer + " ";
  Outcome made = RunSluice(tokenize + "--vocab-size 266 " + dir_ + "/documents.jsonl");
  ASSERT_EQ(made.exit_code, 0) << made.err;
  std::vector<std::string> edits = {"data.train=" + dir_ + "/train.tokens",
                                    "data.tokenizer=" + tokenizer, "data.fim_rate=0.5",
                                    "data.document_mask=true", "train.steps=6"};
  const Outcome without = Train("without", 1, edits);
  EXPECT_EQ(without.exit_code, 1);
  EXPECT_THAT(without.err, HasSubstr("<|fim_prefix|>"));

  Json json = Json::parse(ReadAll(tokenizer));
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
  std::ofstream(tokenizer) << json.dump();
  made = RunSluice(tokenize + dir_ + "/documents.jsonl");
  ASSERT_EQ(made.exit_code, 0) << made.err;
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

  edits[2] = "data.fim_rate=0.5";
  edits[4] = "train.steps=3";
  ASSERT_EQ(Train("resumed", 4, edits).exit_code, 0);
  edits[2] = "data.fim_rate=0.25";
  EXPECT_THAT(Train("resumed", 4, edits).err, HasSubstr("data.fim_rate: found 0.25, wanted 0.5"));
  edits[2] = "data.fim_rate=0.5";
  edits[4] = "train.steps=6";
  ASSERT_EQ(Train("resumed", 4, edits).exit_code, 0);
}

// The table of memory against what the system says, on the preset that fills a laptop's cache:
// within a tenth, or 16 MiB where that is more.
TEST_F(Training, ResidentMemoryIsWhatTheTableSays) {
  for (const char* precision : {"FP32", "BF16"}) {
    const Outcome outcome = RunSluice(
        "train --preset bench_cpu" +
        Sets({"data.bundled_sample=false", "data.train=" + dir_ + "/train.txt",
              "data.train_vocab_size=300", "train.steps=3", "eval.batches=1", "compute.threads=2",
              "checkpoint.every=2", std::string("compute.precision=") + precision,
              "run.dir=" + RunDir(precision)}));
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    const std::vector<std::string> lines =
        LinesWith("resident memory since the start", outcome.out);
    ASSERT_EQ(lines.size(), 1u) << outcome.out;
    double resident = 0, beside = 0;
    ASSERT_EQ(std::sscanf(lines[0].c_str(),
                          "resident memory since the start: %lf MiB, %lf MiB beside the table",
                          &resident, &beside),
              2)
        << lines[0];
    const double table = resident - beside;
    EXPECT_GT(table, 200) << "15.7 million parameters with optimizer and activations";
    EXPECT_LE(std::abs(beside), std::max(0.1 * table, 16.0)) << lines[0];
  }
}

}  // namespace
}  // namespace sluice::launch
