#include "trainer/optim/gate_bias.h"

#include <gtest/gtest.h>

#include <fstream>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/support/source_path.h"

namespace sluice::trainer {
namespace {

TEST(MoveGateBias, EqualsThePublishedUpdates) {
  std::ifstream file(testing::SourcePath("tests/golden/vectors/moe_gate_noaux_tc.json"));
  const nlohmann::json updates = nlohmann::json::parse(file)["bias_update"];
  ASSERT_EQ(updates.size(), 2u);
  for (const nlohmann::json& update : updates) {
    const std::vector<int64_t> load = update["load"];
    std::vector<float> bias = update["bias_before"];
    MoveGateBias(load, update["gamma"], bias);
    EXPECT_EQ(bias, update["bias_after"].get<std::vector<float>>());
  }
}

// One token of 2^40 is seen, which an average in FP32 would lose; three experts have no mean that
// is a whole number.
TEST(MoveGateBias, ComparesIntegers) {
  constexpr int64_t kMany = int64_t{1} << 40;
  std::vector<float> bias = {0.5f, 0.5f, 0.5f};
  MoveGateBias(std::vector<int64_t>{kMany, kMany, kMany + 1}, 0.25f, bias);
  EXPECT_EQ(bias, (std::vector<float>{0.75f, 0.75f, 0.25f}));
  MoveGateBias(std::vector<int64_t>{kMany, kMany, kMany}, 0.25f, bias);
  MoveGateBias(std::vector<int64_t>{0, 0, 0}, 0.25f, bias);
  EXPECT_EQ(bias, (std::vector<float>{0.75f, 0.75f, 0.25f}));
}

}  // namespace
}  // namespace sluice::trainer
