// The commands that read a checkpoint, by their answers: score, generate, eval and inspect, on one
// rank and on several.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/launch/tiny_run.h"

namespace sluice::launch {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Json = nlohmann::json;

struct Tensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

// A file of F32 tensors.
std::map<std::string, Tensor> ReadSafetensors(const std::string& path) {
  const std::string bytes = ReadAll(path);
  uint64_t header = 0;
  EXPECT_GE(bytes.size(), sizeof(header)) << path;
  if (bytes.size() < sizeof(header)) return {};
  std::memcpy(&header, bytes.data(), sizeof(header));
  std::map<std::string, Tensor> tensors;
  const Json entries = Json::parse(bytes.substr(8, header));
  for (const auto& [name, entry] : entries.items()) {
    if (name == "__metadata__") continue;
    EXPECT_EQ(entry["dtype"], "F32") << name;
    Tensor& tensor = tensors[name];
    tensor.shape = entry["shape"].get<std::vector<int64_t>>();
    const std::vector<uint64_t> range = entry["data_offsets"];
    tensor.values.resize((range[1] - range[0]) / sizeof(float));
    std::memcpy(tensor.values.data(), bytes.data() + 8 + header + range[0], range[1] - range[0]);
  }
  return tensors;
}

std::vector<Json> JsonLines(const std::string& text) {
  std::vector<Json> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(Json::parse(line));
  return lines;
}

class CheckpointCommands : public TinyRunTest {
 protected:
  void SetUp() override {
    TinyRunTest::SetUp();
    const Outcome outcome = Train("run", 4, {"train.steps=10"});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }
  static std::string OnRanks(int ranks) {
    if (ranks == 1) return SLUICE_BINARY " ";
    return testing::SourcePath("launch/run -np ") + std::to_string(ranks) + " " SLUICE_BINARY " ";
  }
  std::string Checkpoint() const { return " --checkpoint " + RunDir("run"); }
};

// All lines or none, whether a line cannot be read or has a token that there is not.
TEST_F(CheckpointCommands, ScoreWritesNothingWhenALaterLineIsBad) {
  const std::string good = "{\"ids\": [1, 2, 3]}\n\n", files = " --logits " + dir_ + "/none";
  ASSERT_NE(RunSluice("score --json" + Checkpoint(), good).out, "");
  for (const char* bad : {"{\"ids\": [1, 272]}", "{\"ids\": [1]}", "{\"ids\": [1, 2", "{}"}) {
    const Outcome outcome = RunSluice("score --json" + Checkpoint() + files, good + bad + "\n");
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_EQ(outcome.out, "") << bad;
    EXPECT_THAT(outcome.err, HasSubstr("line 3")) << "a blank line counts";
    EXPECT_FALSE(std::filesystem::exists(dir_ + "/none")) << bad;
  }
}

// The text and its ids score alike; logits give the log-probabilities; gradients have a tensor for
// each parameter; and the number of ranks changes nothing.
TEST_F(CheckpointCommands, ScoreWritesLogprobsLogitsAndGradients) {
  const Outcome ids = RunSluice("tokenize --ids --tokenizer " + RunDir("run") + "/tokenizer.json",
                                "{\"text\": \"The number 12 follows 9\"}\n");
  ASSERT_EQ(ids.exit_code, 0) << ids.err;
  const std::vector<int32_t> tokens = Json::parse(ids.out)["ids"];
  ASSERT_GT(tokens.size(), 5u);
  const std::string input = "{\"text\": \"The number 12 follows 9\"}\n" + ids.out;
  const std::string command = "score --json" + Checkpoint() + " --logits " + dir_ +
                              "/logits --gradients " + dir_ + "/gradients";
  const Outcome one = RunShell(OnRanks(1) + command, input);
  ASSERT_EQ(one.exit_code, 0) << one.err;
  const std::vector<Json> lines = JsonLines(one.out);
  ASSERT_EQ(lines.size(), 2u);
  const std::vector<double> logprobs = lines[0]["logprobs"];
  EXPECT_EQ(lines[1]["logprobs"], lines[0]["logprobs"]);
  ASSERT_EQ(logprobs.size(), tokens.size() - 1);

  const auto logits = ReadSafetensors(dir_ + "/logits");
  ASSERT_EQ(logits.size(), 2u);
  const Tensor& first = logits.at("logits.0");
  ASSERT_EQ(first.shape.back(), 272);
  for (size_t i = 0; i < logprobs.size(); ++i) {
    const float* row = first.values.data() + i * 272;
    double sum = 0;
    for (int64_t j = 0; j < 272; ++j) sum += std::exp(static_cast<double>(row[j]));
    EXPECT_NEAR(row[tokens[i + 1]] - std::log(sum), logprobs[i], 1e-5) << i;
  }
  const auto gradients = ReadSafetensors(dir_ + "/gradients");
  EXPECT_GT(gradients.size(), 40u);
  for (const char* name : {"lm_head.weight", "model.norm.weight", "model.layers.0.mlp.gate.weight",
                           "model.layers.1.mlp.experts.3.down_proj.weight"}) {
    EXPECT_TRUE(gradients.contains(name)) << name;
  }
  double squares = 0;
  for (const float x : gradients.at("model.embed_tokens.weight").values) squares += x * x;
  EXPECT_GT(squares, 0);

  const std::string logit_bytes = ReadAll(dir_ + "/logits");
  const Outcome four = RunShell(OnRanks(4) + command, input);
  EXPECT_EQ(four.exit_code, 0) << four.err;
  EXPECT_EQ(four.out, one.out);
  EXPECT_EQ(ReadAll(dir_ + "/logits"), logit_bytes);
}

TEST_F(CheckpointCommands, GenerateAndEvalAnswerAlikeOnAnyNumberOfRanks) {
  const std::string generate =
      "generate --prompt 'The number' --tokens 20 --seed 5 --temperature 0.8 --top-p 0.9" +
      Checkpoint();
  const Outcome one = RunShell(OnRanks(1) + generate);
  ASSERT_EQ(one.exit_code, 0) << one.err;
  EXPECT_THAT(one.out, StartsWith("The number"));
  EXPECT_GT(one.out.size(), std::string("The number\n").size());
  EXPECT_EQ(RunShell(OnRanks(1) + generate).out, one.out);
  for (const int ranks : {2, 4}) EXPECT_EQ(RunShell(OnRanks(ranks) + generate).out, one.out);
  EXPECT_NE(RunShell(OnRanks(1) + generate + " --seed 6").out, one.out);

  const std::string eval = "eval --json --text " + dir_ + "/validation.txt" + Checkpoint();
  const Outcome whole = RunShell(OnRanks(1) + eval);
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  for (const int ranks : {2, 3}) {
    const Outcome parts = RunShell(OnRanks(ranks) + eval);
    EXPECT_EQ(parts.out, whole.out) << parts.err;
  }
}

TEST_F(CheckpointCommands, InspectListsVerifiesDigestsAndCompares) {
  const std::string run = RunDir("run");
  const std::vector<std::string> generations = Generations("run");
  ASSERT_EQ(generations.size(), 2u);
  const Outcome list = RunSluice("inspect list " + run);
  EXPECT_EQ(list.exit_code, 0) << list.err;
  for (const std::string& generation : generations) {
    EXPECT_THAT(list.out, HasSubstr(generation.substr(generation.rfind("step-"))));
  }
  EXPECT_THAT(list.out, HasSubstr("adam_m/model.layers.0.mlp.experts.0.down_proj.weight"));
  EXPECT_THAT(RunSluice("inspect verify " + run).out, HasSubstr("good: " + generations[1]));
  // A run stands for its newest generation; a line a tensor and a total.
  const auto digest = Digest(run);
  EXPECT_EQ(digest, Digest(generations[1]));
  EXPECT_NE(digest, Digest(generations[0]));
  const auto contents = Json::parse(RunSluice("inspect list --json " + run).out);
  EXPECT_GE(digest.size(), contents["checkpoint"]["tensors"].size() + 1);

  EXPECT_EQ(RunSluice("inspect diff " + run + " " + generations[1]).exit_code, 0);
  const Outcome diff = RunSluice("inspect diff " + generations[0] + " " + generations[1]);
  EXPECT_EQ(diff.exit_code, 1);
  EXPECT_THAT(diff.out, HasSubstr("master/model.embed_tokens.weight"));
  // Another run of the same command ends in the same state.
  ASSERT_EQ(Train("copy", 4, {"train.steps=10"}).exit_code, 0);
  EXPECT_EQ(RunSluice("inspect diff " + run + " " + RunDir("copy")).exit_code, 0);

  FlipByte(ShardOf(generations[1]), 0.5);
  const Outcome damaged = RunSluice("inspect verify " + generations[1]);
  EXPECT_EQ(damaged.exit_code, 1);
  EXPECT_THAT(damaged.err, HasSubstr(generations[1]));
  EXPECT_EQ(Digest(run), Digest(generations[0])) << "the newest good one";
}

}  // namespace
}  // namespace sluice::launch
