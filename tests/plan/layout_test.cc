// Prices of a layout, by hand.
#include "parallel/plan/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <utility>

#include "tests/plan/toy_plan.h"

namespace sluice::parallel {
namespace {

using testing::Toy;

double SecondsOf(const std::vector<Phase>& phases, PhaseKind kind) {
  double seconds = 0;
  for (const Phase& phase : phases) seconds += phase.kind == kind ? phase.seconds : 0;
  return seconds;
}

// One scale a tensor: six bytes an element once, in place of three or four, and two for weights.
TEST(LayoutCosts, WholeTensorsAreReadTwiceToBeQuantised) {
  PlanRequest request = Toy(1, 0, 1, 8);
  request.cluster.device.memory_bytes_per_second = 1e9;
  Work& work = request.model.layers[0].attention;
  work.fresh_in = 10;
  work.fresh_out = 20;
  work.in_elements = 30;
  Layout layout;
  layout.precision = Precision::kFp8;
  const auto cost = [&] {
    return LayoutCosts(request.model, request.cluster, layout).LayerCost(request.model.layers[0]);
  };
  const ChunkCost tiles = cost();
  layout.scaling = Fp8Scaling::kTensors;
  const ChunkCost tensors = cost();
  const auto more = [](const std::vector<Phase>& a, const std::vector<Phase>& b) {
    return SecondsOf(a, PhaseKind::kAttention) - SecondsOf(b, PhaseKind::kAttention);
  };
  const double tokens = 100;
  EXPECT_NEAR(more(tensors.forward, tiles.forward), tokens * 10 * 3 / 1e9, 1e-12);
  EXPECT_NEAR(more(tensors.backward_input, tiles.backward_input), tokens * 20 * 2 / 1e9, 1e-12);
  EXPECT_NEAR(more(tensors.backward_weight, tiles.backward_weight), tokens * 30 * -2 / 1e9, 1e-12);
}

TEST(LayoutCosts, RowsOfFp8ProductsMayTravelInBf16) {
  PlanRequest request = Toy(1, 8, 1, 8);
  Layout layout;
  layout.data = layout.expert = 4;
  layout.precision = Precision::kFp8;
  layout.dispatch = DispatchRows::kBf16;
  const LayerWork& layer = request.model.layers[0];
  const auto forward = [&] {
    return LayoutCosts(request.model, request.cluster, layout).LayerCost(layer).forward;
  };
  const std::vector<Phase> wide = forward();
  EXPECT_EQ(SecondsOf(wide, PhaseKind::kDispatch), SecondsOf(wide, PhaseKind::kCombine));
  layout.dispatch = DispatchRows::kAsProducts;
  EXPECT_LT(SecondsOf(forward(), PhaseKind::kDispatch), SecondsOf(wide, PhaseKind::kDispatch));
}

TEST(LayoutCosts, HeadComputesItsGradientsWithItsLoss) {
  PlanRequest request = Toy(1, 0, 1, 8);
  request.model.head.product_flops = 7e6;
  Layout layout;
  const auto cost = [&] { return LayoutCosts(request.model, request.cluster, layout).HeadCost(); };
  const ChunkCost together = cost();
  EXPECT_EQ(SecondsOf(together.backward_input, PhaseKind::kHead), 0);
  EXPECT_EQ(SecondsOf(together.backward_weight, PhaseKind::kHead), 0);
  layout.head = HeadWork::kApart;
  const ChunkCost apart = cost();
  EXPECT_GT(SecondsOf(apart.backward_weight, PhaseKind::kHead), 0);
  EXPECT_NEAR(SecondsOf(together.forward, PhaseKind::kHead),
              SecondsOf(apart.forward, PhaseKind::kHead) +
                  SecondsOf(apart.backward_input, PhaseKind::kHead) +
                  SecondsOf(apart.backward_weight, PhaseKind::kHead),
              1e-15);
}

double SumOfAll(const std::vector<Phase>& phases) {
  double seconds = 0;
  for (const Phase& phase : phases) seconds += phase.seconds;
  return seconds;
}

// Two ranks share a layer's tokens: 50 of 100 each, of 2e6 flops at 1e12/s. Around attention their
// 100 rows of 1000 BF16 elements are gathered and reduced: half of 2e5 bytes at 1e9/s, twice, and
// again in backward.
TEST(LayoutCosts, TensorParallelismSharesTokensAndMovesTheirRows) {
  PlanRequest request = Toy(1, 0, 1, 8);
  Layout layout;
  layout.tensor = 2;
  const LayoutCosts costs(request.model, request.cluster, layout);
  const ChunkCost cost = costs.LayerCost(request.model.layers[0]);
  EXPECT_EQ(costs.tokens(), 50);
  EXPECT_NEAR(SecondsOf(cost.forward, PhaseKind::kAttention), 50 * 2e6 / 1e12, 1e-8);
  EXPECT_NEAR(SecondsOf(cost.forward, PhaseKind::kOther), 2 * 1e5 / 1e9, 1e-12);
  EXPECT_NEAR(SecondsOf(cost.backward_input, PhaseKind::kOther), 2 * 1e5 / 1e9, 1e-12);
  PlanCache schedules;
  const PlanEntry entry = Evaluate(request, layout, schedules, Detail::kFull).value();
  EXPECT_EQ(entry.layout.num_ranks(), 2);
  EXPECT_DOUBLE_EQ(entry.memory.parameters, 1e6 / 2 * 2) << "each has half of the weights";
  // Eight microbatches, forward and backward: products three times, messages twice.
  EXPECT_NEAR(entry.pipeline_seconds, 8 * (3 * 50 * 2e6 / 1e12 + 2 * 2e-4), 1e-6);
}

// Two ranks have 50 of a sequence's 100 tokens each and pass keys and values of 10 elements a token
// round: half of 2000 bytes, forward and backward. Weights are whole; gradients are reduced over
// both.
TEST(LayoutCosts, ContextParallelismSharesTokensAndPassesKeysAndValues) {
  PlanRequest request = Toy(1, 0, 1, 8);
  request.model.kv_elements = 10;
  Layout layout;
  layout.context = 2;
  const LayoutCosts costs(request.model, request.cluster, layout);
  const ChunkCost cost = costs.LayerCost(request.model.layers[0]);
  EXPECT_EQ(costs.tokens(), 50);
  EXPECT_NEAR(SecondsOf(cost.forward, PhaseKind::kAttention), 50 * 2e6 / 1e12, 1e-8);
  EXPECT_NEAR(SecondsOf(cost.forward, PhaseKind::kOther), 1e3 / 1e9, 1e-12);
  EXPECT_NEAR(SecondsOf(cost.backward_input, PhaseKind::kOther), 1e3 / 1e9, 1e-12);
  PlanCache schedules;
  const PlanEntry entry = Evaluate(request, layout, schedules, Detail::kFull).value();
  EXPECT_DOUBLE_EQ(entry.memory.parameters, 1e6 * 2);
  EXPECT_DOUBLE_EQ(entry.memory.optimizer, 1e6 * 12 / 2);
  EXPECT_NEAR(entry.tail.reduce_gradients, 1e6 * 4 / 2 / 1e9, 1e-9);
}

// At 1e9 bytes/s and 1 us an op: what backward runs again is added to it, in BF16 and in FP8.
TEST(LayoutCosts, RecomputeTakesItsTime) {
  PlanRequest request = Toy(1, 8, 1, 8);
  request.cluster.device.memory_bytes_per_second = 1e9;
  request.cluster.device.op_seconds = 1e-6;
  LayerWork& layer = request.model.layers[0];
  layer.norms.touched = 30;
  layer.norms.ops = 2;
  layer.swiglu.touched = 60;
  layer.swiglu.fresh_in = 20;
  layer.swiglu.ops = 1;
  layer.expert_swiglu.touched = 90;
  layer.expert_swiglu.fresh_in = 30;
  layer.expert_swiglu.ops = 1;
  Layout layout;
  layout.data = layout.expert = 4;
  const auto back = [&] {
    return LayoutCosts(request.model, request.cluster, layout).LayerCost(layer).backward_input;
  };
  const auto more = [&](const std::vector<Phase>& than, PhaseKind kind) {
    return SecondsOf(back(), kind) - SecondsOf(than, kind);
  };
  const double tokens = 100, rows = 200;
  for (const bool fp8 : {false, true}) {
    layout.precision = fp8 ? Precision::kFp8 : Precision::kBf16;
    layout.recompute = {};
    const std::vector<Phase> none = back();
    layout.recompute.norms = true;
    EXPECT_NEAR(more(none, PhaseKind::kAttention), tokens * 30 * 2 / 1e9 + 2e-6, 1e-12);
    EXPECT_NEAR(more(none, PhaseKind::kExperts), 0, 1e-12);
    layout.recompute = {};
    layout.recompute.swiglu = true;
    const double quantised = fp8 ? 3 : 0;  // bytes an element: BF16 read, FP8 written
    EXPECT_NEAR(more(none, PhaseKind::kDense), tokens * (60 * 2 + 20 * quantised) / 1e9 + 1e-6,
                1e-12);
    EXPECT_NEAR(more(none, PhaseKind::kExperts), rows * (90 * 2 + 30 * quantised) / 1e9 + 1e-6,
                1e-12);
    EXPECT_NEAR(more(none, PhaseKind::kAttention), 0, 1e-12);
  }
}

// At 1e9 bytes/s, FP8: of 30 elements that are quantised, 10 in and 20 out, those that are
// quantised where they are computed save four bytes each, unless one scale of all of them has to be
// found first.
TEST(LayoutCosts, WhatIsQuantisedAtOnceIsNotMoved) {
  PlanRequest request = Toy(1, 0, 1, 8);
  request.cluster.device.memory_bytes_per_second = 1e9;
  LayerWork& layer = request.model.layers[0];
  layer.dense.fresh_in = 10;
  layer.dense.fresh_out = 20;
  Layout layout;
  const auto seconds = [&] {
    const ChunkCost cost = LayoutCosts(request.model, request.cluster, layout).LayerCost(layer);
    return std::pair(SumOfAll(cost.forward), SumOfAll(cost.backward_input));
  };
  const double saved = 100 * 4 / 1e9;  // tokens, bytes, rate
  for (const bool tiles : {true, false}) {
    for (const Precision precision : {Precision::kFp8, Precision::kBf16}) {
      layout.precision = precision;
      layout.scaling = tiles ? Fp8Scaling::kTiles : Fp8Scaling::kTensors;
      layer.dense.fused_in = layer.dense.fused_out = 0;
      const auto before = seconds();
      layer.dense.fused_in = 10;
      layer.dense.fused_out = 20;
      const auto after = seconds();
      const double each = tiles && precision == Precision::kFp8 ? saved : 0;
      EXPECT_NEAR(before.first - after.first, 10 * each, 1e-12);
      EXPECT_NEAR(before.second - after.second, 20 * each, 1e-12);
    }
  }
}

// All of a layer but attention, or all of it, once more: compute and exchanges of its forward.
TEST(LayoutCosts, WholeLayersAreRunAgain) {
  PlanRequest request = Toy(1, 8, 1, 8);
  request.model.layers[0].dense.product_flops = 5e6;
  Layout layout;
  layout.data = layout.expert = 4;
  const LayerWork& layer = request.model.layers[0];
  const auto cost = [&] {
    return LayoutCosts(request.model, request.cluster, layout).LayerCost(layer);
  };
  const ChunkCost none = cost();
  layout.recompute.everything = true;
  EXPECT_NEAR(SumOfAll(cost().backward_input),
              SumOfAll(none.backward_input) + SumOfAll(none.forward), 1e-12);
  layout.recompute = {};
  layout.recompute.moe = true;
  EXPECT_NEAR(SumOfAll(cost().backward_input),
              SumOfAll(none.backward_input) + SumOfAll(none.forward) -
                  SecondsOf(none.forward, PhaseKind::kAttention),
              1e-12);
  EXPECT_EQ(SumOfAll(cost().forward), SumOfAll(none.forward));
}

TEST(Plan, SplitIsTheBestOfAll) {
  const std::vector<double> seconds = {1, 1, 1, 2, 2, 2, 2, 1};
  const auto worst = [&](const std::vector<StageShare>& stages, double head) {
    double most = 0;
    for (const StageShare& s : stages) {
      const auto first = seconds.begin() + s.first_layer;
      most = std::max(most, std::accumulate(first, first + s.num_layers, 0.0) + head * s.has_head);
    }
    return most;
  };
  EXPECT_DOUBLE_EQ(worst(SplitByCost(seconds, 0, 3, EmptyEnds::kNone).value(), 0), 5);
  EXPECT_DOUBLE_EQ(worst(SplitByCost(seconds, 5, 4, EmptyEnds::kNone).value(), 5), 6);
  EXPECT_DOUBLE_EQ(worst(SplitByCost(seconds, 5, 4, EmptyEnds::kHead).value(), 5), 5);
  EXPECT_FALSE(SplitByCost(seconds, 0, 9, EmptyEnds::kNone).ok());
  // With both ends empty ten stages are enough for eight layers, one each.
  const auto stages = SplitByCost(seconds, 5, 10, EmptyEnds::kBoth).value();
  EXPECT_EQ(stages.front().num_layers, 0);
  EXPECT_EQ(stages.back().num_layers, 0);
  EXPECT_EQ(stages[1].first_layer, 0);
  EXPECT_DOUBLE_EQ(worst(stages, 5), 5);
  EXPECT_FALSE(SplitByCost(seconds, 5, 11, EmptyEnds::kBoth).ok());
  EXPECT_EQ(SplitByCost(seconds, 5, 1, EmptyEnds::kBoth).value()[0].num_layers, 8);
}

}  // namespace
}  // namespace sluice::parallel
