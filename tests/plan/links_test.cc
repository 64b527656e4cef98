// Volumes and times of exchanges and collectives, by hand.
#include "parallel/sim/links.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>

namespace sluice::parallel {
namespace {

constexpr Network kH800 = {8, {160e9, 10e-6}, {50e9, 20e-6}};

TEST(Links, GroupsOnNodes) {
  EXPECT_EQ((GroupShape{64, 1}.nodes(8)), 8);
  EXPECT_EQ((GroupShape{64, 1}.ranks_on_node(8)), 8);
  EXPECT_EQ((GroupShape{4, 1}.nodes(8)), 1);
  EXPECT_EQ((GroupShape{2, 64}.nodes(8)), 2);
  EXPECT_EQ((GroupShape{16, 2}.ranks_on_node(8)), 4);
  EXPECT_EQ((GroupShape{3, 8}.nodes(8)), 3);
}

// K experts drawn evenly from `limit` nodes that were themselves drawn: counted on a million
// tokens.
TEST(Links, ExpectedNodesAgreesWithDraws) {
  std::mt19937 random(5);
  for (const auto& [nodes, k, limit] :
       {std::tuple(8, 8, 4), std::tuple(8, 8, 0), std::tuple(2, 2, 0)}) {
    const int reach = limit > 0 ? limit : nodes;
    constexpr int kTokens = 200000;
    int64_t sum = 0;
    for (int t = 0; t < kTokens; ++t) {
      std::set<int> seen;
      for (int i = 0; i < k; ++i) seen.insert(static_cast<int>(random() % reach));
      sum += static_cast<int64_t>(seen.size());
    }
    // Five standard errors of a count in [1, reach]: 5 * reach / 2 / sqrt(tokens) < 0.05.
    EXPECT_NEAR(ExpectedNodes(nodes, k, limit), static_cast<double>(sum) / kTokens, 0.05);
  }
  EXPECT_EQ(ExpectedNodes(1, 8, 4), 1);
}

// DeepSeek-V3: 4096 tokens, top 8, FP8 rows of 7168 + 56 scales, 64 ranks on 8 nodes, at most 4.
TEST(Links, DeepSeekDispatchByHand) {
  ExchangeShape shape{.group = {64, 1},
                      .ranks_per_node = 8,
                      .tokens = 4096,
                      .experts_per_token = 8,
                      .node_limit = 4,
                      .row_bytes = 7168 + 56 * 4};
  const double nodes = 4 * (1 - std::pow(0.75, 8));  // 3.6 of the 4 allowed
  const ExchangeBytes bytes = BytesOf(shape);
  EXPECT_NEAR(bytes.across, 4096 * nodes * 7 / 8 * 7392, 1);
  EXPECT_NEAR(bytes.inside, 4096.0 * 8 * 7 / 8 * 7392, 1);
  EXPECT_NEAR(ExchangeSeconds(shape, kH800), bytes.across / 50e9 + bytes.inside / 160e9 + 30e-6,
              1e-9);
  shape.kind = ExchangeKind::kFlat;
  EXPECT_NEAR(BytesOf(shape).across, 4096.0 * 8 * 56 / 64 * 7392, 1);
  EXPECT_NEAR(BytesOf(shape).inside, 4096.0 * 8 * 7 / 64 * 7392, 1);
  shape.group.size = 1;
  EXPECT_EQ(BytesOf(shape).across + BytesOf(shape).inside, 0);
  EXPECT_EQ(ExchangeSeconds(shape, kH800), 0);
}

TEST(Links, RingsAndMessages) {
  EXPECT_NEAR(ReduceScatterSeconds({8, 1}, 8e9, kH800), 7e9 / 160e9 + 10e-6, 1e-9);
  EXPECT_NEAR(ReduceScatterSeconds({128, 1}, 128e9, kH800), 127e9 / 50e9 + 20e-6, 1e-9);
  EXPECT_NEAR(AllGatherSeconds({2, 64}, 2e9, kH800), 1e9 / 50e9 + 20e-6, 1e-9);
  EXPECT_EQ(ReduceScatterSeconds({1, 1}, 8e9, kH800), 0);
  EXPECT_NEAR(MessageSeconds(true, 5e9, kH800), 0.1, 1e-12);
  EXPECT_EQ(MessageLatency(false, kH800), 10e-6);
}

TEST(Links, RatesMeasuredApartGoToTheirCollectives) {
  Network network = kH800;
  network.inside.reduction_rate = 1e9;
  network.inside.gather_rate = 2e9;
  network.inside.message_rate = 4e9;
  network.inside.message_latency = 0;
  EXPECT_NEAR(ReduceScatterSeconds({8, 1}, 8e9, network), 7 + 10e-6, 1e-9);
  EXPECT_NEAR(AllGatherSeconds({8, 1}, 8e9, network), 3.5 + 10e-6, 1e-9);
  EXPECT_NEAR(MessageSeconds(false, 8e9, network), 2, 1e-9);
  EXPECT_EQ(MessageLatency(false, network), 0);
  EXPECT_EQ(MessageSeconds(true, 8e9, network), MessageSeconds(true, 8e9, kH800));
}

}  // namespace
}  // namespace sluice::parallel
