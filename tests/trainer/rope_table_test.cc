#include "trainer/model/rope_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "nlohmann/json.hpp"
#include "tests/support/source_path.h"

namespace sluice::trainer {
namespace {

nlohmann::json Vectors() {
  std::ifstream file(testing::SourcePath("tests/golden/vectors/yarn_rope.json"));
  return nlohmann::json::parse(file);
}

RopeScaling DeepSeekV3Scaling(double mscale) {
  RopeScaling scaling;
  scaling.set_type("yarn");
  scaling.set_factor(40);
  scaling.set_beta_fast(32);
  scaling.set_beta_slow(1);
  scaling.set_mscale(mscale);
  scaling.set_mscale_all_dim(mscale);
  scaling.set_original_max_position_embeddings(4096);
  return scaling;
}

// Every number of the file that is a list of 32 is the list of frequencies.
TEST(RopeTable, YarnFrequenciesAreThePublishedOnes) {
  const RopeScaling scaling = DeepSeekV3Scaling(1.0);
  const std::vector<double> found = RopeFrequencies(10000, 64, &scaling);
  ASSERT_EQ(found.size(), 32u);
  EXPECT_NEAR(found[0], 1.0, 1e-12);
  EXPECT_NEAR(found[1], 0.74989421, 1e-8);
  EXPECT_NEAR(found[10], 0.056234133, 1e-9);
  EXPECT_NEAR(found[23], 3.3338036e-05, 1e-12);
  EXPECT_NEAR(found[31], 3.3338036e-06, 1e-13);
  int lists = 0;
  std::function<void(const nlohmann::json&)> visit = [&](const nlohmann::json& node) {
    if (node.is_array() && node.size() == 32 && node[0].is_number()) {
      // The file may also hold plain frequencies; the stretched ones end lower.
      if (node[31].get<double>() > 1e-5) return;
      ++lists;
      for (int i = 0; i < 32; ++i)
        EXPECT_NEAR(found[i], node[i].get<double>(), 1e-6 * found[i]) << i;
    } else if (node.is_structured()) {
      for (const nlohmann::json& child : node) visit(child);
    }
  };
  visit(Vectors());
  EXPECT_GE(lists, 1);
}

TEST(RopeTable, SoftmaxAndRotationFactors) {
  const RopeScaling v3 = DeepSeekV3Scaling(1.0), lite = DeepSeekV3Scaling(0.707);
  EXPECT_NEAR(std::sqrt(YarnSoftmaxFactor(&v3)), 1.3688879454113936, 1e-14);
  EXPECT_NEAR(std::sqrt(YarnSoftmaxFactor(&lite)), 1.2608037774058554, 1e-14);
  EXPECT_NEAR(YarnSoftmaxFactor(&v3) / std::sqrt(192.0), 0.1352337788608801, 1e-14);
  EXPECT_EQ(YarnRotationFactor(&v3), 1.0);
  EXPECT_EQ(YarnSoftmaxFactor(nullptr), 1.0);
}

TEST(RopeTable, WithoutScalingFrequenciesAreAPowerOfTheta) {
  const std::vector<double> found = RopeFrequencies(10000, 8, nullptr);
  for (int i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(found[i], std::pow(10000.0, -i / 4.0));
}

}  // namespace
}  // namespace sluice::trainer
