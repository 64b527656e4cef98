// Scores of a saved model against the losses of the model that was saved.
#include "trainer/loop/score.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "checkpoints/safetensors.h"
#include "tests/data/data_test_util.h"
#include "tests/trainer/one_rank.h"
#include "trainer/loop/run_state.h"

namespace sluice::trainer {
namespace {

// A run folder with one checkpoint of a model that has trained two steps.
class ScoreTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    RunConfig config = TinyConfig();
    config.mutable_model()->set_num_nextn_predict_layers(1);
    config.mutable_compute()->set_precision(GetParam());
    config.mutable_train()->set_bias_update_speed(0.05);
    rank_ = std::make_unique<OneRank>(config);
    for (int step = 1; step <= 2; ++step) {
      rank_->LoadRandomBatch(step);
      rank_->Train(0.01, step);
    }
    rank_->LoadRandomBatch(9);
    const auto files = checkpoints::CreatePosixFileSystem();
    SaveOptions options;
    options.dir = dir_.File("checkpoints");
    std::filesystem::create_directories(options.dir);
    RunState state;
    state.step = state.updates = 2;
    state.load.assign(rank_->model->num_gates() * config.model().n_routed_experts(), 0);
    const auto saved = SaveState(*rank_->model, state, options, *files);
    ASSERT_TRUE(saved.ok()) << saved.status();
    options_.checkpoint = dir_.path();
    context_.world = rank_->world.get();
    context_.device = rank_->device.get();
  }

  // Sequence s of the batch, with the last target.
  ScoreInput Line(int64_t s, int64_t count) {
    const int64_t length = rank_->config.train().sequence_length();
    const MicrobatchInput& input = rank_->batch->inputs()[s / 2];
    ScoreInput line;
    for (int64_t i = 0; i < std::min(count, length); ++i)
      line.ids.push_back(input.tokens.data<int32_t>()[s % 2 * length + i]);
    if (count > length)
      line.ids.push_back(input.targets.data<int32_t>()[s % 2 * length + length - 1]);
    return line;
  }

  // [sequences * L] main losses of the model in memory.
  std::vector<float> Losses() {
    std::vector<float> losses(rank_->config.train().global_batch() *
                              rank_->config.train().sequence_length());
    TransformerStage& stage = *rank_->model->stages().back();
    stage.set_head_visitor([&](const Context& context, const HeadOutput& out) {
      std::copy_n(out.loss.data<float>(), context.batch.num_tokens(),
                  losses.begin() + context.batch.first_sequence * context.batch.sequence_length);
    });
    rank_->Evaluate();
    stage.set_head_visitor(nullptr);
    return losses;
  }

  std::unique_ptr<OneRank> rank_;
  const data::TempDir dir_;
  ScoreOptions options_;
  RankContext context_;
};

// Rows do not depend on what is computed beside them, so equality is to the bit.
TEST_P(ScoreTest, LogProbabilitiesAreMinusTheLossesWhateverStandsBeside) {
  const std::vector<float> losses = Losses();
  const auto all = Score(options_, {Line(0, 8), Line(2, 5), Line(3, 2), Line(2, 8)}, context_);
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_EQ(all->size(), 4u);
  const int64_t sequence[] = {0, 2, 3, 2}, count[] = {7, 4, 1, 7};
  for (int line = 0; line < 4; ++line) {
    ASSERT_EQ(static_cast<int64_t>((*all)[line].size()), count[line]);
    for (int64_t i = 0; i < count[line]; ++i)
      EXPECT_EQ((*all)[line][i], -losses[sequence[line] * 7 + i]) << line << " " << i;
  }
  const auto alone = Score(options_, {Line(2, 5)}, context_);
  ASSERT_TRUE(alone.ok());
  EXPECT_EQ((*alone)[0], (*all)[1]);
}

TEST_P(ScoreTest, LogitsGiveTheLogProbabilities) {
  options_.logits_path = dir_.File("logits.safetensors");
  const ScoreInput lines[] = {Line(0, 8), Line(1, 3)};
  const auto scores = Score(options_, {lines[0], lines[1]}, context_);
  ASSERT_TRUE(scores.ok()) << scores.status();
  const auto files = checkpoints::CreatePosixFileSystem();
  auto reader = checkpoints::SafetensorsReader::Open(*files, options_.logits_path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const int64_t vocabulary = rank_->config.model().vocab_size();
  const int64_t rows[] = {7, 3};  // of the last of a full sequence there are none
  for (int line = 0; line < 2; ++line) {
    const std::string name = "logits." + std::to_string(line);
    const auto* entry = (*reader)->Find(name);
    ASSERT_NE(entry, nullptr);
    ASSERT_EQ(entry->shape, (std::vector<int64_t>{rows[line], vocabulary}));
    std::vector<float> logits(rows[line] * vocabulary);
    ASSERT_TRUE(
        (*reader)
            ->Read({name, DType::kF32, entry->shape, 0, rows[line] * vocabulary}, logits.data())
            .ok());
    for (size_t i = 0; i < (*scores)[line].size(); ++i) {
      double sum = 0;
      for (int64_t v = 0; v < vocabulary; ++v) sum += std::exp(logits[i * vocabulary + v]);
      const double expected = logits[i * vocabulary + lines[line].ids[i + 1]] - std::log(sum);
      EXPECT_NEAR((*scores)[line][i], expected, 1e-5);  // FP32, of numbers below 8
    }
  }
}

// Each token's experts, as the model that was saved chooses them in an evaluation; of the one MoE
// layer, and not of MTP's.
TEST_P(ScoreTest, RoutesAreTheModels) {
  std::vector<int32_t> wanted[2];
  rank_->model->stages().back()->set_row_visitor(
      [&](const char* what, int layer, const MicrobatchInput& input, ConstTensorView rows) {
        if (what != std::string("routes") || layer != 1 || input.first_sequence != 0) return;
        const int32_t* data = rows.data<int32_t>();
        wanted[0].assign(data, data + 7 * 2);
        wanted[1].assign(data + 7 * 2, data + 10 * 2);
      });
  rank_->Evaluate();
  rank_->model->stages().back()->set_row_visitor(nullptr);
  options_.routes_path = dir_.File("routes.safetensors");
  const auto scores = Score(options_, {Line(0, 8), Line(1, 3)}, context_);
  ASSERT_TRUE(scores.ok()) << scores.status();
  const auto files = checkpoints::CreatePosixFileSystem();
  const auto reader = checkpoints::SafetensorsReader::Open(*files, options_.routes_path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->tensors().size(), size_t{2});
  for (int line = 0; line < 2; ++line) {
    const std::string name = "routes." + std::to_string(line) + ".1";
    const std::vector<int64_t> shape = {line == 0 ? 7 : 3, 2};
    std::vector<int32_t> routes(shape[0] * 2);
    ASSERT_TRUE((*reader)->Read({name, DType::kI32, shape, 0, shape[0] * 2}, routes.data()).ok());
    EXPECT_EQ(routes, wanted[line]) << line;
  }
}

TEST_P(ScoreTest, RefusesALineByItsNumber) {
  const ScoreInput good = Line(0, 8);
  const auto message = [&](std::vector<int32_t> ids) {
    ScoreInput bad;
    bad.ids = std::move(ids);
    const auto scores = Score(options_, {good, bad}, context_);
    EXPECT_EQ(scores.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(scores.status().message());
  };
  EXPECT_EQ(message({}), "line 2: found 0 tokens, wanted 2 to 8");
  EXPECT_EQ(message({1}), "line 2: found 1 tokens, wanted 2 to 8");
  EXPECT_EQ(message({1, 2, 3, 4, 5, 6, 7, 8, 9}), "line 2: found 9 tokens, wanted 2 to 8");
  EXPECT_EQ(message({1, 31}), "line 2: found token 31, wanted 0 to 30");
  EXPECT_EQ(message({-1, 3}), "line 2: found token -1, wanted 0 to 30");
}

TEST_P(ScoreTest, NoLinesGiveNoScores) {
  const auto scores = Score(options_, {}, context_);
  ASSERT_TRUE(scores.ok()) << scores.status();
  EXPECT_TRUE(scores->empty());
}

INSTANTIATE_TEST_SUITE_P(Precision, ScoreTest, ::testing::Values("FP32", "BF16"));

using ScoreGradients = ScoreTest;

// Lines of full length are the batch that TrainStep sees; with the losses of gate and MTP off, both
// differentiate the same. FP32 sums of the same terms over microbatches of 1 instead of 2
// sequences: 1e-5 of the gradient's norm, as between layouts.
TEST_P(ScoreGradients, AreThoseOfTheMeanMainLoss) {
  options_.gradients_path = dir_.File("gradients.safetensors");
  // Sequence 1 of the batch ends in padding.
  const auto scores = Score(options_, {Line(0, 8), Line(1, 6), Line(2, 8), Line(3, 8)}, context_);
  ASSERT_TRUE(scores.ok()) << scores.status();
  int64_t targets = 0;
  for (const auto& line : *scores) targets += static_cast<int64_t>(line.size());
  ASSERT_EQ(targets, rank_->batch->num_targets());
  RunConfig config = rank_->config;
  config.mutable_model()->set_aux_loss_alpha(0);
  config.mutable_model()->set_router_z_loss_coef(0);
  config.mutable_train()->set_mtp_loss_weight(0);
  OneRank plain(config);
  plain.LoadRandomBatch(9);
  std::vector<std::vector<float>> masters;
  rank_->ForEachPiece([&](const NamedPiece& piece, float* master, const float*) {
    masters.emplace_back(master, master + piece.count);
  });
  size_t next = 0;
  plain.ForEachPiece([&](const NamedPiece&, float* master, const float*) {
    std::copy(masters[next].begin(), masters[next].end(), master);
    ++next;
  });
  for (size_t g = 0; g < plain.model->stages()[0]->gates().size(); ++g) {
    const TensorView to = plain.model->stages()[0]->gates()[g].layer->bias();
    plain.device->Copy(rank_->model->stages()[0]->gates()[g].layer->bias(), to,
                       plain.model->stream());
  }
  plain.Publish();
  plain.Train(0);
  const auto files = checkpoints::CreatePosixFileSystem();
  auto reader = checkpoints::SafetensorsReader::Open(*files, options_.gradients_path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  plain.ForEachPiece([&](const NamedPiece& piece, float*, const float* gradient) {
    const auto* entry = (*reader)->Find(piece.name);
    ASSERT_NE(entry, nullptr) << piece.name;
    std::vector<float> found(piece.count);
    ASSERT_TRUE(
        (*reader)
            ->Read({piece.name, DType::kF32, entry->shape, piece.begin, piece.begin + piece.count},
                   found.data())
            .ok());
    double squares = 0, off = 0;
    for (int64_t i = 0; i < piece.count; ++i) {
      const double expected = static_cast<double>(gradient[i]) / static_cast<double>(targets);
      squares += expected * expected;
      off += (found[i] - expected) * (found[i] - expected);
    }
    EXPECT_LE(std::sqrt(off), 1e-5 * std::sqrt(squares)) << piece.name;
  });
}

INSTANTIATE_TEST_SUITE_P(Precision, ScoreGradients, ::testing::Values("FP32"));

}  // namespace
}  // namespace sluice::trainer
