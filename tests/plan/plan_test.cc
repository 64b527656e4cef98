// The planner on toy models, by hand and by what must hold.
#include "parallel/plan/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/plan/toy_plan.h"

namespace sluice::parallel {
namespace {

using testing::Toy;

TEST(Plan, OneRankIsItsProductsAndOptimizer) {
  PlanRequest request = Toy(3, 0, 1, 8);
  Layout layout;
  PlanCache schedules;
  const PlanEntry entry = Evaluate(request, layout, schedules, Detail::kFull).value();
  const double step = 3.0 * 3 * 2e6 * 100 * 8 / 1e12;
  EXPECT_NEAR(entry.step_seconds, step, 1e-3 * step);
  EXPECT_EQ(entry.layout.microbatches, 8);
  EXPECT_NEAR(entry.tokens_per_second_rank, 800 / step, 1e-3 * 800 / step);
  EXPECT_NEAR(entry.utilisation, 1.0, 1e-3);
  EXPECT_NEAR(entry.device_hours, 1e9 / 800 * step / 3600, 1e-3 * entry.device_hours);
  EXPECT_NEAR(entry.dollars, 2 * entry.device_hours, 1e-9);
  // BF16: values, FP32 gradients, master and two moments; one microbatch of kept elements, its
  // input, and three rows of H at the head.
  EXPECT_DOUBLE_EQ(entry.memory.parameters, 3e6 * 2);
  EXPECT_DOUBLE_EQ(entry.memory.gradients, 3e6 * 4);
  EXPECT_DOUBLE_EQ(entry.memory.optimizer, 3e6 * 12);
  EXPECT_DOUBLE_EQ(entry.memory.activations, (3 * 1000 + 1000 + 3000) * 100 * 2.0);
}

TEST(Plan, AxesDivideWhatTheyShould) {
  PlanRequest request = Toy(4, 8, 2, 64);
  PlanCache schedules;
  Layout layout;
  layout.data = 8;
  layout.expert = 4;
  const MemoryUse use = Evaluate(request, layout, schedules, Detail::kFull).value().memory;
  const double dense = 4e6, experts = 4 * 2 * 1.5e6;  // two experts of eight
  EXPECT_DOUBLE_EQ(use.parameters, (dense + experts) * 2);
  EXPECT_DOUBLE_EQ(use.optimizer, 12 * (dense / 8 + experts / 2));
  layout.zero = 3;
  const MemoryUse three = Evaluate(request, layout, schedules, Detail::kFull).value().memory;
  EXPECT_DOUBLE_EQ(three.parameters, 2 * (dense / 8 + experts / 2));
  EXPECT_DOUBLE_EQ(three.gradients, 4 * (dense / 8 + experts / 2));
  layout.zero = 1;
  layout.pipe = 2;
  layout.data = 4;
  const PlanEntry piped = Evaluate(request, layout, schedules, Detail::kFull).value();
  EXPECT_DOUBLE_EQ(piped.memory.parameters, (dense + experts) / 2 * 2);
}

TEST(Plan, ProductsMayReadCopiesOfTheWeights) {
  PlanRequest request = Toy(3, 0, 1, 8);
  PlanCache schedules;
  Layout layout;
  request.cluster.device.weight_copies = 2;
  const double weights = 3e6;  // all of the toy's parameters
  EXPECT_DOUBLE_EQ(Evaluate(request, layout, schedules, Detail::kFull).value().memory.parameters,
                   weights * (2 + 2 * 2));
  layout.precision = Precision::kFp8;  // with a scale of four bytes a tile of 128 x 128
  EXPECT_DOUBLE_EQ(Evaluate(request, layout, schedules, Detail::kFull).value().memory.parameters,
                   weights * (2 + 2 * (1 + 4.0 / (128 * 128))));
}

// Three million gradients are set to zero, of whatever stage.
TEST(Plan, ClearedGradientsTakeTheirTime) {
  PlanRequest request = Toy(3, 0, 1, 8);
  PlanCache schedules;
  const double before = Evaluate(request, {}, schedules, Detail::kFull).value().step_seconds;
  request.cluster.device.cleared_parameters_per_second = 1e6;
  EXPECT_NEAR(Evaluate(request, {}, schedules, Detail::kFull).value().step_seconds, before + 3,
              1e-9);
}

// A step's end on four ranks: R seconds to reduce FP32 gradients, half of that to gather BF16.
TEST(Plan, ZeroStagesMoveAndHoldWhatTheyShould) {
  PlanRequest request = Toy(4, 0, 1, 32);
  PlanCache schedules;
  const auto evaluate = [&](int zero, int reductions) {
    Layout layout;
    layout.data = 4;
    layout.zero = zero;
    layout.gradient_reductions = reductions;
    return Evaluate(request, layout, schedules, Detail::kFull).value();
  };
  const PlanEntry all = evaluate(0, 0), one = evaluate(1, 0), two = evaluate(2, 0),
                  three = evaluate(3, 0);
  const double reduce = 4e6 * 4 * 3 / 4 / 1e9;  // three quarters at 1e9 bytes/s
  EXPECT_NEAR(one.tail.reduce_gradients, reduce, 1e-9);
  EXPECT_NEAR(one.tail.gather_parameters, reduce / 2, 1e-9);
  EXPECT_NEAR(all.tail.reduce_gradients + all.tail.gather_parameters, 2 * reduce, 1e-9);
  EXPECT_NEAR(all.tail.optimizer, 4 * one.tail.optimizer, 1e-12);
  EXPECT_NEAR(two.tail.reduce_gradients, 8 * reduce, 1e-9) << "eight microbatches";
  EXPECT_NEAR(evaluate(2, 3).tail.reduce_gradients, 3 * reduce, 1e-9);
  EXPECT_EQ(three.tail.gather_parameters, 0) << "gathered layer by layer";
  EXPECT_DOUBLE_EQ(all.memory.optimizer, 4e6 * 12);
  EXPECT_DOUBLE_EQ(two.memory.gradients, 4e6 * 4 / 4);
  EXPECT_DOUBLE_EQ(three.memory.parameters, 4e6 * 2 / 4);
  Layout bad;
  bad.zero = 4;
  EXPECT_THAT(std::string(Evaluate(request, bad, schedules, Detail::kFull).status().message()),
              ::testing::HasSubstr("zero: found stage 4"));
}

TEST(Plan, DualPipeHoldsEverythingTwice) {
  PlanRequest request = Toy(4, 0, 1, 16);
  request.cluster.network.ranks_per_node = 2;
  PlanCache schedules;
  Layout layout;
  layout.pipe = 2;
  const PlanEntry once = Evaluate(request, layout, schedules, Detail::kFull).value();
  layout.schedule = "dualpipe";
  const PlanEntry twice = Evaluate(request, layout, schedules, Detail::kFull).value();
  EXPECT_DOUBLE_EQ(twice.memory.parameters, 2 * once.memory.parameters);
  EXPECT_DOUBLE_EQ(twice.memory.optimizer, once.memory.optimizer) << "cut over both copies";
}

TEST(Plan, RowsOfTheFullestRankCostMemory) {
  PlanRequest request = Toy(2, 8, 1, 8);
  PlanCache schedules;
  Layout layout;
  layout.data = layout.expert = 4;
  const PlanEntry even = Evaluate(request, layout, schedules, Detail::kFull).value();
  // Rank 0 has half of all rows: twice the mean.
  request.routes = {{0, 0, {40, 40, 10, 10, 20, 20, 10, 10}}};
  const PlanEntry uneven = Evaluate(request, layout, schedules, Detail::kFull).value();
  // Two layers of which each strays alone: 1 / sqrt(2) of the excess.
  const double rows = 200, layers = 2, excess = 40.0 * 2 / 40 - 1;
  EXPECT_NEAR(uneven.memory.activations - even.memory.activations,
              layers * rows * 500 * 2 * excess / std::sqrt(2.0), 1e-6);
  EXPECT_GT(uneven.step_seconds, even.step_seconds);
}

TEST(Plan, SaysWhyNot) {
  PlanRequest request = Toy(4, 8, 1, 64);
  PlanCache schedules;
  Layout layout;
  layout.data = 4;
  layout.expert = 3;
  EXPECT_THAT(std::string(Evaluate(request, layout, schedules, Detail::kFull).status().message()),
              ::testing::HasSubstr("expert: found 3, wanted a divisor"));
  layout.expert = 4;
  request.cluster.device.memory_bytes = 1e6;
  EXPECT_THAT(Evaluate(request, layout, schedules, Detail::kFull).value().why_not,
              ::testing::StartsWith("memory, mostly optimizer: rank 0 of the pipeline needs"));
  request.cluster.device.memory_bytes = 1e9;
  request.max_days = 1e-9;
  EXPECT_THAT(Evaluate(request, layout, schedules, Detail::kFull).value().why_not,
              ::testing::HasSubstr("deadline"));
  layout.schedule = "interleaved";
  layout.chunks = 2;
  layout.pipe = 3;
  layout.data = layout.expert = 1;
  EXPECT_FALSE(Evaluate(request, layout, schedules, Detail::kFull).ok()) << "64 over 3 ranks";
}

// Every fitting layout that one could write down by hand is no faster than the first.
TEST(Plan, SearchFindsTheFastest) {
  PlanRequest request = Toy(8, 8, 2, 64);
  request.expert_cv = 0.3;
  const Plans plans = MakePlans(request, 5);
  ASSERT_EQ(plans.fitting.size(), 5u);
  EXPECT_GT(plans.tried, 200);
  PlanCache schedules;
  for (const char* schedule : {"1f1b", "zb_h1", "dualpipe"}) {
    for (const int pipe : {1, 2, 4}) {
      for (const int expert : {1, 2}) {
        Layout layout;
        layout.pipe = pipe;
        layout.data = 8 / pipe;
        layout.expert = expert;
        layout.schedule = schedule;
        const auto entry = Evaluate(request, layout, schedules, Detail::kFull);
        if (!entry.ok() || !entry->why_not.empty()) continue;
        EXPECT_GE(entry->step_seconds, plans.fitting[0].step_seconds * (1 - 1e-9));
      }
    }
  }
  for (size_t i = 1; i < plans.fitting.size(); ++i)
    EXPECT_GE(plans.fitting[i].step_seconds, plans.fitting[i - 1].step_seconds);
  request.cluster.device.memory_bytes = 1e5;
  const Plans none = MakePlans(request, 5);
  EXPECT_TRUE(none.fitting.empty());
  EXPECT_FALSE(none.nearest.empty());
  EXPECT_GT(none.refused.at("memory, mostly optimizer"), 0);
  EXPECT_GT(plans.refused.at("more stages than layers"), 0);
  for (const auto& [why, count] : plans.refused)
    EXPECT_NE(why.find(' '), std::string::npos) << "a sentence, not: " << why;
}

TEST(Plan, SearchKeepsWhatIsAsked) {
  PlanRequest request = Toy(8, 8, 2, 64);
  request.pipe = 2;
  request.expert = 2;
  request.chunks = 4;  // interleaved alone has four
  const Plans plans = MakePlans(request, 1000);
  ASSERT_FALSE(plans.fitting.empty());
  for (const PlanEntry& entry : plans.fitting) {
    EXPECT_EQ(entry.layout.pipe, 2);
    EXPECT_EQ(entry.layout.data, 4);
    EXPECT_EQ(entry.layout.expert, 2);
    EXPECT_EQ(entry.layout.schedule, "interleaved");
    EXPECT_EQ(entry.layout.chunks, 4);
  }
  request.pipe = 3;
  EXPECT_EQ(MakePlans(request, 1).tried, 0);
}

TEST(Cluster, BadNumbersAreNamed) {
  ClusterProto proto;
  EXPECT_THAT(std::string(ToCluster(proto).status().message()),
              ::testing::HasSubstr("device.peak_bf16_flops: found 0"));
  proto.mutable_device()->set_peak_bf16_flops(1e12);
  proto.mutable_device()->set_memory_bytes_per_second(1e12);
  proto.mutable_device()->set_memory_bytes(1e9);
  proto.set_nodes(2);
  EXPECT_THAT(std::string(ToCluster(proto).status().message()),
              ::testing::HasSubstr("across.bytes_per_second"));
  proto.mutable_across()->set_bytes_per_second(1e9);
  EXPECT_TRUE(ToCluster(proto).ok());
  proto.mutable_device()->set_sustained_clock(1.5);
  EXPECT_THAT(std::string(ToCluster(proto).status().message()),
              ::testing::HasSubstr("device.sustained_clock: found 1.5"));
}

}  // namespace
}  // namespace sluice::parallel
