#include "trainer/optim/lr_schedule.h"

#include <gtest/gtest.h>

#include <fstream>

#include "nlohmann/json.hpp"
#include "tests/support/source_path.h"

namespace sluice::trainer {
namespace {

LrSchedule Cosine() {
  LrSchedule schedule;
  schedule.shape = LrShape::kCosine;
  schedule.peak = 1e-3;
  schedule.steps = 100;
  schedule.warmup_steps = 10;
  schedule.final_ratio = 0.1;
  return schedule;
}

TEST(LrSchedule, WarmUpIsLinearAndReachesThePeak) {
  EXPECT_DOUBLE_EQ(LearningRate(Cosine(), 1), 1e-4);
  EXPECT_DOUBLE_EQ(LearningRate(Cosine(), 5), 5e-4);
  EXPECT_DOUBLE_EQ(LearningRate(Cosine(), 10), 1e-3);
}

TEST(LrSchedule, CosineEndsAtTheFinalRateAndIsHalfWayInTheMiddle) {
  EXPECT_DOUBLE_EQ(LearningRate(Cosine(), 100), 1e-4);
  EXPECT_NEAR(LearningRate(Cosine(), 55), (1e-3 + 1e-4) / 2, 1e-12);
  EXPECT_DOUBLE_EQ(LearningRate(Cosine(), 1000), 1e-4);  // clamped
}

TEST(LrSchedule, WsdIsStableThenLinear) {
  LrSchedule schedule = Cosine();
  schedule.shape = LrShape::kWsd;
  schedule.decay_steps = 20;
  schedule.final_ratio = 0;
  EXPECT_DOUBLE_EQ(LearningRate(schedule, 11), 1e-3);
  EXPECT_DOUBLE_EQ(LearningRate(schedule, 80), 1e-3);
  EXPECT_DOUBLE_EQ(LearningRate(schedule, 90), 5e-4);
  EXPECT_DOUBLE_EQ(LearningRate(schedule, 100), 0);
}

// The published points are in tokens; a step of constant size makes them steps.
TEST(LrSchedule, DeepSeekV3Points) {
  std::ifstream file(testing::SourcePath("tests/golden/vectors/v3_train_schedule.json"));
  const nlohmann::json vectors = nlohmann::json::parse(file);
  constexpr double kTokensPerStep = 1e9;
  const auto steps = [&](const nlohmann::json& tokens) {
    return static_cast<int64_t>(tokens.get<double>() / kTokensPerStep + 0.5);
  };
  const nlohmann::json& published = vectors["published"];
  LrSchedule schedule;
  schedule.shape = LrShape::kDeepSeekV3;
  schedule.peak = published["lr_peak"];
  schedule.steps = steps(published["tokens"]);
  schedule.constant_steps = steps(published["lr_const_until_tokens"]);
  schedule.decay_steps = steps(published["cosine_tokens"]);
  schedule.final_ratio = published["lr_end_cosine"].get<double>() / schedule.peak;
  schedule.tail_steps = steps(published["final_phase"][1]["tokens"]);
  schedule.tail_ratio = published["final_phase"][1]["lr"].get<double>() / schedule.peak;
  int checked = 0;
  for (const nlohmann::json& point : vectors["derived_lr_points"]) {
    const double wanted = point["lr"];
    EXPECT_NEAR(LearningRate(schedule, steps(point["tokens"])), wanted, wanted * 1e-9) << point;
    ++checked;
  }
  EXPECT_EQ(checked, 10);
}

TEST(BatchRamp, GrowsInMultiplesAndSamplesAddUp) {
  const BatchRamp ramp{.start = 4, .full = 16, .ramp_steps = 7, .multiple = 4};
  int64_t first = 0;
  for (int64_t step = 1; step <= 20; ++step) {
    EXPECT_EQ(FirstSample(ramp, step), first) << step;
    const int64_t size = BatchSize(ramp, step);
    EXPECT_EQ(size % 4, 0);
    EXPECT_GE(size, 4);
    if (step > 1) {
      EXPECT_GE(size, BatchSize(ramp, step - 1));
    }
    first += size;
  }
  EXPECT_EQ(BatchSize(ramp, 1), 4);
  EXPECT_EQ(BatchSize(ramp, 8), 16);
}

}  // namespace
}  // namespace sluice::trainer
