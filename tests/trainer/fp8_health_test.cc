// The health of layers in FP8: what a report says, and what it leads to.
#include "trainer/model/fp8_health.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/data/data_test_util.h"
#include "tests/trainer/one_rank.h"
#include "tests/trainer/small_run.h"
#include "trainer/loop/fp8_report.h"
#include "trainer/loop/load_model.h"
#include "trainer/loop/run_state.h"

namespace sluice::trainer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

StepResult TrainWith(OneRank& run, Fp8Health* health) {
  StepOptions options;
  options.global_sequences = run.config.train().global_batch();
  options.fp8_health = health;
  const auto result = TrainStep(*run.model, *run.batch, options);
  CHECK(result.ok()) << result.status().ToString();
  return *result;
}

constexpr double kLimit = 0.25;  // the default of fp8.demote_above

TEST(Fp8HealthReport, SeesEveryLayerAndChangesNothing) {
  OneRank run(TinyFp8("FP8"));
  run.LoadRandomBatch(1);
  const StepResult plain = TrainWith(run, nullptr);
  Fp8Health health;
  const StepResult reported = TrainWith(run, &health);
  EXPECT_EQ(reported.loss, plain.loss);
  EXPECT_EQ(reported.grad_norm, plain.grad_norm);
  // A dense and an MoE layer: 4 of attention each, 2 of an MLP, 2 of the experts, 2 shared.
  EXPECT_EQ(health.layers().size(), 2u * 4 + 2 + 4);
  for (const auto& layer : health.layers()) {
    EXPECT_GT(layer->x.amax, 0) << layer->name;
    EXPECT_GT(layer->w.amax, 0) << layer->name;
    EXPECT_GT(layer->dy.amax, 0) << layer->name;
    EXPECT_GT(layer->x.count, 0) << layer->name;
    EXPECT_EQ(layer->x.clipped, 0) << layer->name;  // the scale is that of the values themselves
    EXPECT_GT(layer->RelativeError(), 1e-3) << layer->name;
    EXPECT_LT(layer->RelativeError(), 0.1) << layer->name;  // 5%: two operands of 2^-4 / sqrt(3)
  }
  EXPECT_THAT(LayersAbove(health, kLimit), IsEmpty());
  EXPECT_THAT(health.Table(), HasSubstr("model.layers.1.mlp.experts.gate_proj.weight "));
}

// One channel of the input a million times larger than the rest: it sets the scale of its tile, and
// all others fall below the smallest code. Its weights are 0, so the product is that of the others.
TEST(Fp8HealthReport, AnOutlierChannelDemotesItsLayerAndNoOther) {
  OneRank run(TinyFp8("FP8"));
  constexpr int64_t kChannel = 5, kHidden = 48;
  run.ForEachPiece([&](const NamedPiece& piece, float* master, const float* /*gradient*/) {
    if (piece.name == "model.layers.0.input_layernorm.weight") master[kChannel] = 1e6f;
    if (piece.name == "model.layers.0.self_attn.q_a_proj.weight" ||
        piece.name == "model.layers.0.self_attn.kv_a_proj_with_mqa.weight") {
      for (int64_t i = kChannel; i < piece.count; i += kHidden) master[i] = 0;
    }
  });
  run.Publish();
  run.LoadRandomBatch(1);
  Fp8Health before;
  TrainWith(run, &before);
  const std::string name = "model.layers.0.self_attn.q_a_proj.weight";
  const std::vector<std::string> bad = LayersAbove(before, kLimit);
  ASSERT_THAT(bad, ElementsAre(name));
  ASSERT_TRUE(DemoteLayers(*run.model, bad).ok());
  Fp8Health after;
  TrainWith(run, &after);
  EXPECT_EQ(after.layers().size() + 1, before.layers().size());
  EXPECT_THAT(LayersAbove(after, kLimit), IsEmpty());
  EXPECT_THAT(LayersAbove(before, 0), IsEmpty());  // no limit
}

// As it was trained: in FP8, but for the layers that left it.
TEST(Fp8Checkpoint, IsEvaluatedAsItWasTrained) {
  OneRank run(TinyFp8("FP8"));
  run.LoadRandomBatch(1);
  const double in_fp8 = run.Evaluate().loss;
  RunState state;
  state.fp8_demoted = {"model.layers.1.self_attn.o_proj.weight"};
  state.load.assign(run.model->num_gates() * run.config.model().n_routed_experts(), 0);
  ASSERT_TRUE(DemoteLayers(*run.model, state.fp8_demoted).ok());
  const double demoted = run.Evaluate().loss;
  EXPECT_NE(demoted, in_fp8);
  const data::TempDir dir;
  const auto files = checkpoints::CreatePosixFileSystem();
  const auto saved = SaveState(*run.model, state, {.dir = dir.path()}, *files);
  ASSERT_TRUE(saved.ok()) << saved.status();
  auto loaded = LoadModel(*saved, {.world = run.world.get(), .device = run.device.get()});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  // (Sums over sequences do not depend on the microbatch.)
  run.model = std::move(loaded->model);
  EXPECT_EQ(run.Evaluate().loss, demoted);
}

// Every weight is counted once, and small ones beside a large one of their block fall below its
// smallest code: half of 2^-9 of amax / 448.
TEST(Fp8HealthReport, SeesTheWeightsAndWhatTheirBlocksLose) {
  OneRank run(TinyFp8("FP8"));
  constexpr int64_t kOut = 32, kIn = 48;
  run.ForEachPiece([&](const NamedPiece& piece, float* master, const float* /*gradient*/) {
    if (piece.name != "model.layers.0.self_attn.q_a_proj.weight") return;
    ASSERT_EQ(piece.count, kOut * kIn);
    for (int64_t i = 0; i < piece.count; ++i) master[i] = i < 7 ? 1e-6f : i < 9 ? 0.0f : 0.25f;
    master[9] = 2.0f;
  });
  run.Publish();
  run.LoadRandomBatch(1);
  Fp8Health health;
  TrainWith(run, &health);
  int seen = 0;
  for (const auto& layer : health.layers()) {
    if (layer->name != "model.layers.0.self_attn.q_a_proj.weight") continue;
    ++seen;
    EXPECT_EQ(layer->w.amax, 2);
    EXPECT_EQ(layer->w.count, (kOut + 16 + 16) * kIn);  // kv_a_proj_with_mqa is in it
    EXPECT_EQ(layer->w.underflows, 7);
    EXPECT_EQ(layer->w.clipped, 0);
  }
  EXPECT_EQ(seen, 1);
}

// Gradients are those of the sum of the token losses; the optimizer divides by their number. So the
// first sequences have the same output gradients however many follow. (The balance loss is left
// out: its factor has the mean number of targets of a sequence, and one sequence here has fewer.)
TEST(Fp8HealthReport, GradientsDoNotShrinkWithTheBatch) {
  Fp8Health few, many;
  for (Fp8Health* health : {&few, &many}) {
    RunConfig config = TinyFp8("FP8");
    config.mutable_model()->set_aux_loss_alpha(0);
    config.mutable_train()->set_global_batch(health == &few ? 2 : 40);
    OneRank run(config);
    run.LoadRandomBatch(1);
    TrainWith(run, health);
  }
  ASSERT_EQ(few.layers().size(), many.layers().size());
  for (size_t i = 0; i < few.layers().size(); ++i) {
    EXPECT_EQ(few.layers()[i]->dy.amax, many.layers()[i]->dy.amax) << few.layers()[i]->name;
    EXPECT_EQ(few.layers()[i]->dx.norm, many.layers()[i]->dx.norm) << few.layers()[i]->name;
  }
}

TEST(Fp8HealthReport, RanksAddUp) {
  Parameter weight;
  weight.pieces = {{"model.layers.2.mlp.experts.17.gate_proj.weight", {1, 1}, 0, 0, 1}};
  Fp8Health a, b;
  Fp8LayerHealth &of_a = a.LayerOf(weight), &of_b = b.LayerOf(weight);
  EXPECT_EQ(of_a.name, "model.layers.2.mlp.experts.gate_proj.weight");
  of_a.x = {2.5, 10, 1, 0};
  of_b.x = {1.5, 30, 2, 4};
  of_b.w = {0.5, 20, 3, 1};
  of_a.y = of_b.y = {2, 200};
  of_a.dx = {3, 100};
  of_b.dx = {1, 300};
  of_a.dw = {4, 300};
  of_b.dw = {5, 600};
  const auto copy = Fp8Health::Parse(b.Serialize());
  ASSERT_TRUE(copy.ok()) << copy.status();
  a.Merge(*copy);
  ASSERT_EQ(a.layers().size(), 1u);
  EXPECT_EQ(of_a.x.amax, 2.5);
  EXPECT_EQ(of_a.x.count, 40);
  EXPECT_EQ(of_a.x.underflows, 3);
  EXPECT_EQ(of_a.x.clipped, 4);
  EXPECT_EQ(of_a.w.amax, 0.5);
  EXPECT_EQ(of_a.w.underflows, 3);
  EXPECT_EQ(of_a.y.RelativeError(), 0.1);
  EXPECT_EQ(of_a.dx.RelativeError(), 0.1);
  EXPECT_EQ(of_a.dw.RelativeError(), 0.1);
  EXPECT_EQ(of_a.RelativeError(), 0.1);
  // The largest of the three; what is no number is never good enough.
  for (ShadowProduct Fp8LayerHealth::*product :
       {&Fp8LayerHealth::y, &Fp8LayerHealth::dx, &Fp8LayerHealth::dw}) {
    Fp8LayerHealth layer = of_a;
    (layer.*product).difference = 100;
    EXPECT_GT(layer.RelativeError(), 0.3);
    (layer.*product).difference = std::numeric_limits<double>::quiet_NaN();
    EXPECT_TRUE(std::isinf(layer.RelativeError()));
  }
}

}  // namespace
}  // namespace sluice::trainer
