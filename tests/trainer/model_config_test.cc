#include "trainer/model/model_config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

#include "google/protobuf/text_format.h"
#include "nlohmann/json.hpp"
#include "tests/support/source_path.h"
#include "trainer/loop/parameter_count.h"
#include "trainer/loop/run_config.pb.h"

namespace sluice::trainer {
namespace {

ModelConfig Preset(const std::string& name) {
  std::ifstream file(testing::SourcePath("launch/presets/") + name + ".textproto");
  std::stringstream text;
  text << file.rdbuf();
  RunConfig config;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text.str(), &config)) << name;
  ResolveModel(*config.mutable_model());
  return config.model();
}

class PresetParameters : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(PresetParameters, EqualThePublishedCounts) {
  const auto [preset, key] = GetParam();
  std::ifstream file(testing::SourcePath("tests/golden/vectors/param_counts.json"));
  const nlohmann::json wanted = nlohmann::json::parse(file)[key];
  const ModelConfig config = Preset(preset);
  ASSERT_TRUE(ValidateModel(config).ok()) << ValidateModel(config);
  const auto counts = CountParameters(config);
  ASSERT_TRUE(counts.ok()) << counts.status();
  EXPECT_EQ(counts->total, wanted["total"].get<int64_t>());
  EXPECT_EQ(counts->active, wanted["active_with_embed_and_head"].get<int64_t>());
  if (wanted.contains("mtp_unique")) {
    EXPECT_EQ(counts->mtp, wanted["mtp_unique"].get<int64_t>());
  }
}

INSTANTIATE_TEST_SUITE_P(All, PresetParameters,
                         ::testing::Values(std::make_pair("deepseek_v3", "deepseek_v3"),
                                           std::make_pair("deepseek_v2_lite", "deepseek_v2_lite"),
                                           std::make_pair("moonlight", "moonlight_16b_a3b"),
                                           std::make_pair("qwen3_30b_a3b", "qwen3_30b_a3b"),
                                           std::make_pair("mixtral_8x7b", "mixtral_8x7b"),
                                           std::make_pair("olmoe_1b_7b", "olmoe_1b_7b")),
                         [](const auto& info) { return std::string(info.param.first); });

// bench_cpu is the model of the CPU benchmarks: 15.74 M parameters, 41.4 MFLOP a token counted
// causally, forward and backward.
TEST(ModelConfig, BenchCpuHasTheSizeOfTheBenchmarks) {
  const auto counts = CountParameters(Preset("bench_cpu"));
  ASSERT_TRUE(counts.ok());
  EXPECT_NEAR(static_cast<double>(counts->total), 15.74e6, 0.01e6);
  EXPECT_NEAR(3 * ForwardFlops(Preset("bench_cpu"), 256).total, 41.4e6, 0.2e6);
}

TEST(ModelConfig, FlopsOfDeepSeekV3AreThePublishedOnes) {
  // 250.45 GFLOP a trained token at 4096 positions, main model only (counted causally).
  ModelConfig config = Preset("deepseek_v3");
  config.set_num_nextn_predict_layers(0);
  EXPECT_NEAR(3 * ForwardFlops(config, 4096).total, 250.45e9, 0.3e9);
}

TEST(SplitLayers, CoversAllLayersOnceAndBalancesTheHead) {
  const ModelConfig config = Preset("laptop");
  for (int stages = 1; stages <= config.num_hidden_layers(); ++stages) {
    const auto split = SplitLayers(config, stages, 256);
    ASSERT_TRUE(split.ok());
    int next = 0;
    for (const StageSpec& stage : *split) {
      EXPECT_EQ(stage.first_layer, next);
      EXPECT_GE(stage.num_layers, 1);
      EXPECT_EQ(stage.has_embedding, next == 0);
      next += stage.num_layers;
      EXPECT_EQ(stage.has_head, next == config.num_hidden_layers());
    }
    EXPECT_EQ(next, config.num_hidden_layers());
  }
  const auto two = SplitLayers(config, 2, 256);
  EXPECT_GT((*two)[0].num_layers, (*two)[1].num_layers);  // head and MTP weigh on the second
  EXPECT_FALSE(SplitLayers(config, config.num_hidden_layers() + 1, 256).ok());
}

// Every cut of few layers, tried out: with stages s and S - 1 - s on one rank the slowest rank is
// as fast as it can be.
TEST(SplitLayers, FoldedStagesBalanceTheRanks) {
  ModelConfig config = Preset("laptop");
  for (const int layers : {4, 5, 7, 9}) {
    config.set_num_hidden_layers(layers);
    const FlopsPerToken flops = ForwardFlops(config, 256);
    const auto slowest = [&](const std::vector<StageSpec>& stages) {
      double worst = 0;
      for (size_t s = 0; s < stages.size() / 2; ++s) {
        worst = std::max(worst, StageFlops(config, stages[s], flops) +
                                    StageFlops(config, stages[stages.size() - 1 - s], flops));
      }
      return worst;
    };
    double best = std::numeric_limits<double>::infinity();
    for (int a = 1; a < layers; ++a) {
      for (int b = a + 1; b < layers; ++b) {
        for (int c = b + 1; c < layers; ++c) {
          best = std::min(best, slowest({{0, a, true, false},
                                         {a, b - a, false, false},
                                         {b, c - b, false, false},
                                         {c, layers - c, false, true}}));
        }
      }
    }
    const auto split = SplitLayers(config, 4, 256, StagePlacement::kFolded);
    ASSERT_TRUE(split.ok()) << split.status();
    int next = 0;
    for (const StageSpec& stage : *split) {
      EXPECT_EQ(stage.first_layer, next);
      EXPECT_GE(stage.num_layers, 1);
      next += stage.num_layers;
    }
    EXPECT_EQ(next, layers);
    EXPECT_TRUE(split->front().has_embedding && split->back().has_head);
    EXPECT_NEAR(slowest(*split), best, 1e-12 * best) << layers << " layers";  // sums are rounded
    const auto alone = SplitLayers(config, 4, 256);
    EXPECT_LE(slowest(*split), slowest(*alone) * (1 + 1e-12));
  }
}

TEST(ModelConfig, BadValuesAreNamed) {
  const auto message = [](auto change) {
    ModelConfig config = Preset("tiny");
    change(config);
    const absl::Status status = ValidateModel(config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(message([](ModelConfig& c) { c.set_num_experts_per_tok(9); }),
            "model.num_experts_per_tok: found 9, wanted 1 to n_routed_experts = 8");
  EXPECT_EQ(message([](ModelConfig& c) { c.set_n_group(3); }),
            "model.n_group: found 3, wanted a divisor of n_routed_experts = 8");
  EXPECT_EQ(message([](ModelConfig& c) { c.set_qk_rope_head_dim(15); }),
            "model.qk_rope_head_dim: found 15, wanted an even number");
  EXPECT_EQ(message([](ModelConfig& c) { c.set_scoring_func("relu"); }),
            "model.scoring_func: found \"relu\", wanted one of sigmoid, softmax");
  EXPECT_EQ(message([](ModelConfig& c) { c.clear_vocab_size(); }),
            "model.vocab_size: found 0, wanted at least 2");
}

}  // namespace
}  // namespace sluice::trainer
