// Expert placement against DeepSeek's published example and what must hold for any load.
#include "parallel/plan/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/support/source_path.h"

namespace sluice::parallel {
namespace {

TEST(Placement, EqualsThePublishedExamples) {
  std::ifstream file(sluice::testing::SourcePath("tests/golden/vectors/eplb_examples.json"));
  const nlohmann::json json = nlohmann::json::parse(file);
  int layers = 0;
  for (const auto& example : json["cases"]) {
    const PlacementShape shape{example["num_replicas"], example["num_groups"], example["num_nodes"],
                               example["num_gpus"]};
    for (size_t layer = 0; layer < example["weight"].size(); ++layer, ++layers) {
      const auto weight = example["weight"][layer].get<std::vector<double>>();
      const LayerPlacement placement = PlaceExperts(weight, shape).value();
      EXPECT_EQ(placement.expert_of_slot, example["phy2log"][layer].get<std::vector<int>>());
      EXPECT_EQ(placement.copies, example["logcnt"][layer].get<std::vector<int>>());
      for (size_t e = 0; e < weight.size(); ++e) {
        std::vector<int> slots = example["log2phy"][layer][e].get<std::vector<int>>();
        std::erase(slots, -1);
        EXPECT_EQ(placement.slots_of_expert[e], slots) << "expert " << e;
      }
      const auto loads = example["gpu_load"][layer].get<std::vector<double>>();
      ASSERT_EQ(placement.device_load.size(), loads.size());
      for (size_t d = 0; d < loads.size(); ++d)
        EXPECT_NEAR(placement.device_load[d], loads[d], 1e-9 * loads[d]) << "device " << d;
    }
  }
  EXPECT_GE(layers, 7);
}

TEST(Placement, EveryExpertIsPlacedAndNoLoadIsLost) {
  std::mt19937 random(3);
  for (int i = 0; i < 200; ++i) {
    const int nodes = 1 << (random() % 3), devices = nodes << (random() % 3);
    const int experts = devices * (1 + random() % 6), replicas = experts + devices * (random() % 3);
    const int groups = experts % (2 * nodes) == 0 && random() % 2 == 0 ? 2 * nodes : 1;
    std::vector<double> weight(experts);
    for (double& w : weight) w = random() % 100 == 0 ? 0.0 : 1 + random() % 1000;
    const auto placed = PlaceExperts(weight, {replicas, groups, nodes, devices});
    ASSERT_TRUE(placed.ok()) << placed.status();
    double total = 0, sum = 0;
    std::vector<int> seen(experts, 0);
    for (const int expert : placed->expert_of_slot) {
      ASSERT_GE(expert, 0);
      ++seen[expert];
    }
    EXPECT_THAT(seen, ::testing::Each(::testing::Ge(1)));
    EXPECT_EQ(seen, placed->copies);
    for (int e = 0; e < experts; ++e) {
      EXPECT_EQ(static_cast<int>(placed->slots_of_expert[e].size()), placed->copies[e]);
      for (const int slot : placed->slots_of_expert[e]) EXPECT_EQ(placed->expert_of_slot[slot], e);
      total += weight[e];
    }
    for (const double load : placed->device_load) sum += load;
    EXPECT_NEAR(sum, total, 1e-6 * total);
    // A group stays on one node.
    if (groups % nodes == 0 && groups > 1) {
      for (int e = 0; e < experts; ++e) {
        const int node_of_first =
            placed->slots_of_expert[e - e % (experts / groups)][0] / (replicas / nodes);
        for (const int slot : placed->slots_of_expert[e])
          EXPECT_EQ(slot / (replicas / nodes), node_of_first);
      }
    }
  }
}

// Not a theorem (experts in order can be lucky when all loads are alike), but what it is for: loads
// as uneven as a gate without a bias makes them.
TEST(Placement, NotWorseThanExpertsInOrderWhereLoadsAreUneven) {
  std::mt19937 random(11);
  std::lognormal_distribution<double> load(0.0, 0.8);
  int uneven = 0;
  for (int i = 0; i < 300; ++i) {
    const int devices = 2 << (random() % 5), experts = devices * (2 + random() % 7);
    std::vector<double> weight(experts);
    for (double& w : weight) w = load(random);
    const double naive = WorstOverMean(PlaceInOrder(weight, devices).value());
    const double packed = WorstOverMean(PlaceExperts(weight, {experts, 1, 1, devices}).value());
    const double copied =
        WorstOverMean(PlaceExperts(weight, {experts + devices, 1, 1, devices}).value());
    if (naive < 1.1) continue;  // nothing to balance
    ++uneven;
    EXPECT_LE(packed, naive + 1e-9);
    EXPECT_LE(copied, naive + 1e-9);
  }
  EXPECT_GT(uneven, 200);
}

TEST(Placement, SaysWhatDoesNotDivide) {
  const auto status = PlaceExperts({1, 2, 3, 4}, {6, 1, 1, 4}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("4 experts in 1 groups, 6"));
  EXPECT_FALSE(PlaceExperts({1, 2, 3, 4}, {2, 1, 1, 2}).ok());
  EXPECT_FALSE(PlaceExperts({}, {2, 1, 1, 2}).ok());
}

}  // namespace
}  // namespace sluice::parallel
