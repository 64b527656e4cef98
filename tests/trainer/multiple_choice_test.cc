// Accuracies against sums of the log-probabilities that Score gives.
#include "trainer/loop/multiple_choice.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "data/tokenizer.h"
#include "tests/data/data_test_util.h"
#include "tests/trainer/one_rank.h"
#include "trainer/loop/run_state.h"
#include "trainer/loop/score.h"

namespace sluice::trainer {
namespace {

using Json = nlohmann::json;

// A run folder with one checkpoint of a random model, whose tokens are letters and the space.
class MultipleChoice : public ::testing::Test {
 protected:
  void SetUp() override {
    Json vocab = {{" ", 0}};
    for (int i = 0; i < 26; ++i) vocab[std::string(1, static_cast<char>('a' + i))] = i + 1;
    vocab["\u00e9"] = 27;
    const Json json = {{"added_tokens", Json::array()},
                       {"decoder", {{"type", "Fuse"}}},
                       {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}};
    const auto tokenizer = data::LoadTokenizer(dir_.Write("tokenizer.json", json.dump()));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    rank_ = std::make_unique<OneRank>(TinyConfig());
    const auto files = checkpoints::CreatePosixFileSystem();
    SaveOptions options;
    options.dir = dir_.File("checkpoints");
    std::filesystem::create_directories(options.dir);
    RunState state;
    state.tokenizer_hash = (*tokenizer)->hash();
    state.load.assign(rank_->model->num_gates() * rank_->config.model().n_routed_experts(), 0);
    const auto saved = SaveState(*rank_->model, state, options, *files);
    ASSERT_TRUE(saved.ok()) << saved.status();
    context_.world = rank_->world.get();
    context_.device = rank_->device.get();
  }

  absl::StatusOr<MultipleChoiceResult> Evaluate(const std::string& lines) {
    return EvaluateMultipleChoice({.checkpoint = dir_.path(), .path = dir_.Write("q.jsonl", lines)},
                                  context_);
  }

  const data::TempDir dir_;
  std::unique_ptr<OneRank> rank_;
  RankContext context_;
};

TEST_F(MultipleChoice, TheLikeliestAnswerCounts) {
  const std::vector<std::string> choices = {"a", "qzx", "\u00e9\u00e9", "k"};
  std::string lines;
  int right = 0, right_normalized = 0;
  for (int q = 0; q < 26; ++q) {
    const std::string question = {static_cast<char>('a' + q), 'o'};
    std::vector<ScoreInput> inputs;
    for (const std::string& choice : choices)
      inputs.push_back({.text = absl::StrCat(question, " ", choice), .is_text = true});
    const auto logprobs = Score({.checkpoint = dir_.path()}, inputs, context_);
    ASSERT_TRUE(logprobs.ok()) << logprobs.status();
    double best = -1e9, best_normalized = -1e9;
    int chosen = -1, chosen_normalized = -1;
    for (int i = 0; i < 4; ++i) {
      double sum = 0;  // the space is a part of the answer
      for (size_t k = 1; k < (*logprobs)[i].size(); ++k) sum += (*logprobs)[i][k];
      const double normalized = sum / (i == 2 ? 2.0 : static_cast<double>(choices[i].size()));
      if (sum > best) best = sum, chosen = i;
      if (normalized > best_normalized) best_normalized = normalized, chosen_normalized = i;
    }
    const int answer = q % 2 == 0 ? chosen_normalized : 0;
    right += chosen == answer ? 1 : 0;
    right_normalized += chosen_normalized == answer ? 1 : 0;
    lines += Json{{"question", question}, {"choices", choices}, {"answer", answer}}.dump() + "\n";
  }
  const auto result = Evaluate(lines);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->questions, 26);
  EXPECT_DOUBLE_EQ(result->accuracy, right / 26.0);
  EXPECT_DOUBLE_EQ(result->normalized_accuracy, right_normalized / 26.0);
  EXPECT_GE(right_normalized, 13);
  EXPECT_DOUBLE_EQ(result->chance, 0.25);
  EXPECT_EQ(result->num_cut, 0);
}

TEST_F(MultipleChoice, LongQuestionsLoseTheirBeginningLongAnswersAreRefused) {
  const auto line = [](const std::string& question, const std::string& choice) {
    return Json{{"question", question}, {"choices", {choice, "b"}}, {"answer", 0}}.dump() + "\n";
  };
  const auto cut = Evaluate(line("abcdefghijkl", "a"));  // sequences have 8 tokens
  ASSERT_TRUE(cut.ok()) << cut.status();
  EXPECT_EQ(cut->num_cut, 1);
  data::ExpectStatus(Evaluate(line("a", "b") + line("a", "bcdefghi")).status(),
                     absl::StatusCode::kInvalidArgument, {"q.jsonl, line 2", "8 together"});
  data::ExpectStatus(Evaluate("\n").status(), absl::StatusCode::kInvalidArgument, {"no question"});
  data::ExpectStatus(Evaluate("{}").status(), absl::StatusCode::kInvalidArgument,
                     {"q.jsonl, line 1"});
}

}  // namespace
}  // namespace sluice::trainer
