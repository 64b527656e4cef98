#include "parallel/sim/imbalance.h"

#include <gtest/gtest.h>

#include <cmath>

namespace sluice::parallel {
namespace {

TEST(Imbalance, WorstOfRecordedCounts) {
  EXPECT_DOUBLE_EQ(WorstOverMean({1, 2, 3, 4}, 2), 7.0 / 5);
  EXPECT_DOUBLE_EQ(WorstOverMean({1, 2, 3, 4}, 4), 4.0 / 2.5);
  EXPECT_DOUBLE_EQ(WorstOverMean({0, 0}, 2), 1.0);
  EXPECT_DOUBLE_EQ(WorstOverMean({5, 6}, 1), 1.0);
}

TEST(Imbalance, TraceGivesItsOwnQuantiles) {
  const RouteTrace trace = {{0, 0, {1, 1}}, {0, 1, {3, 1}}, {1, 0, {1, 7}}};  // 1, 1.5, 1.75
  const Imbalance imbalance = Imbalance::FromTrace(trace, 2);
  EXPECT_DOUBLE_EQ(imbalance.Quantile(0), 1);
  EXPECT_DOUBLE_EQ(imbalance.Quantile(0.5), 1.5);
  EXPECT_DOUBLE_EQ(imbalance.Quantile(0.75), 1.625);
  EXPECT_DOUBLE_EQ(imbalance.Quantile(1), 1.75);
  EXPECT_DOUBLE_EQ(imbalance.mean(), (1 + 1.5 + 1.75) / 3);
}

TEST(Imbalance, GrowsWithSpreadAndShrinksWithExpertsARank) {
  const auto mean = [](int experts, int members, double cv) {
    return Imbalance::FromDistribution(experts, members, cv).mean();
  };
  EXPECT_EQ(mean(256, 64, 0), 1);
  EXPECT_EQ(mean(256, 1, 0.5), 1);
  EXPECT_LT(mean(256, 64, 0.2), mean(256, 64, 0.4));
  EXPECT_LT(mean(256, 8, 0.4), mean(256, 64, 0.4));
  EXPECT_GT(mean(256, 8, 0.4), 1.0);
}

TEST(Imbalance, DrawsRepeatAndDiffer) {
  const Imbalance imbalance = Imbalance::FromDistribution(64, 8, 0.5);
  EXPECT_EQ(imbalance.Draw(0, 1, 2, 3), imbalance.Draw(0, 1, 2, 3));
  int differ = 0;
  double sum = 0;
  for (int m = 0; m < 1000; ++m) {
    differ += imbalance.Draw(0, 1, m, 1) != imbalance.Draw(1, 1, m, 1);
    sum += imbalance.Draw(0, 1, m, 4);
  }
  EXPECT_GT(differ, 900);
  // A thousand means of four draws with a spread well below 0.5: five standard errors.
  EXPECT_NEAR(sum / 1000, imbalance.mean(), 5 * 0.5 / std::sqrt(4000.0));
  const RowFactors factors = imbalance.Factors({0, 2});
  EXPECT_EQ(factors.worst(0, 1, 7), imbalance.Draw(0, 1, 7, 2));
  EXPECT_EQ(Imbalance::Balanced().Factors({1}).worst, nullptr);
}

}  // namespace
}  // namespace sluice::parallel
