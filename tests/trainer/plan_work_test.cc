// What the planner is told of a model, against the modules that the trainer builds.
#include "trainer/model/plan_work.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "google/protobuf/text_format.h"
#include "tests/support/source_path.h"
#include "trainer/loop/parameter_count.h"
#include "trainer/loop/run_config.pb.h"
#include "trainer/model/model_config.h"

namespace sluice::trainer {
namespace {

class PlanWork : public ::testing::TestWithParam<const char*> {
 protected:
  static ModelConfig Model() {
    std::ifstream file(testing::SourcePath("launch/presets/") + std::string(GetParam()) +
                       ".textproto");
    std::stringstream text;
    text << file.rdbuf();
    RunConfig config;
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text.str(), &config));
    ResolveModel(*config.mutable_model());
    return config.model();
  }
};

TEST_P(PlanWork, CountsTheParametersThatAreBuilt) {
  const ModelConfig model = Model();
  const auto counts = CountParameters(model);
  ASSERT_TRUE(counts.ok());
  EXPECT_EQ(DescribeWork(model, 4096).parameters, static_cast<double>(counts->total));
}

// Products and attention proper, layer by layer, are the flops of the step line.
TEST_P(PlanWork, FlopsAddUpToTheTrainers) {
  const ModelConfig model = Model();
  const int64_t length = 256;
  const parallel::ModelWork work = DescribeWork(model, length);
  double flops = work.head.product_flops;
  for (const parallel::LayerWork& layer : work.layers) {
    flops += layer.attention.product_flops + layer.attention.core_flops + layer.dense.product_flops;
    if (layer.is_moe) flops += layer.expert.product_flops * work.experts_per_token;
  }
  EXPECT_NEAR(3 * flops, work.flops_per_token, 1e-9 * work.flops_per_token);
}

// What recompute runs again is what it drops, read once more (SwiGLU reads two for the one it
// writes).
TEST_P(PlanWork, RecomputeRunsAgainWhatItDrops) {
  const parallel::ModelWork work = DescribeWork(Model(), 256);
  for (const parallel::LayerWork& layer : work.layers) {
    EXPECT_EQ(layer.norms.touched, 2 * layer.kept.norms);
    EXPECT_EQ(layer.swiglu.touched, 3 * layer.kept.swiglu);
    EXPECT_EQ(layer.expert_swiglu.touched, 3 * layer.kept_row.swiglu);
    EXPECT_EQ(layer.swiglu.fresh_in, layer.kept.swiglu);
    EXPECT_EQ(layer.expert_swiglu.fresh_in, layer.kept_row.swiglu);
  }
}

// SwiGLU's result is all that down projections read and what recompute makes again, its gradient
// all that comes to gate and up projections: both are codes only, beside FP8.
TEST_P(PlanWork, WhatSwigluMakesIsQuantisedAtOnce) {
  const parallel::ModelWork work = DescribeWork(Model(), 256);
  for (const parallel::LayerWork& layer : work.layers) {
    EXPECT_EQ(layer.swiglu.fused_in, layer.swiglu.fresh_in);
    EXPECT_EQ(layer.expert_swiglu.fused_in, layer.expert_swiglu.fresh_in);
    EXPECT_EQ(layer.dense.fused_in, layer.kept.swiglu);
    EXPECT_EQ(layer.dense.fused_out, 2 * layer.kept.swiglu);
    EXPECT_EQ(layer.expert.fused_in, layer.expert.fresh_in);
    EXPECT_EQ(layer.expert.fused_out, layer.expert.fresh_out);
    EXPECT_EQ(layer.attention.fused_in + layer.attention.fused_out, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(All, PlanWork,
                         ::testing::Values("deepseek_v3", "deepseek_v2_lite", "moonlight",
                                           "qwen3_30b_a3b", "mixtral_8x7b", "olmoe_1b_7b",
                                           "bench_cpu", "bench_gpu", "tiny"));

}  // namespace
}  // namespace sluice::trainer
