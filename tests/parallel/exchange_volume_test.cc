// The planner's volume formulas against the rows that the exchange really hands to its
// communicator, counted from a trace.   R ranks of N virtual nodes, T tokens a rank, K experts a
// token
#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "parallel/comm/decorators.h"
#include "parallel/expert/token_exchange.h"
#include "parallel/sim/links.h"
#include "tests/support/thread_ranks.h"

namespace sluice::testing {
namespace {

using kernels::ConstTensorView;
using kernels::DType;
using kernels::TensorView;

constexpr int kRanks = 8, kPerNode = 2, kExperts = 16, kTopK = 4, kLimit = 2, kTokens = 96;
constexpr int kHidden = 8;

// Token t of rank r may use kLimit of the four nodes, in turn, and takes kTopK experts of them in
// turn: every rank gets the same number of rows.
std::vector<int32_t> Routes(int rank) {
  std::vector<int32_t> expert_of;
  for (int t = 0; t < kTokens; ++t) {
    const int first = (rank / kPerNode + t) % 4, second = (first + 1 + t / 4 % 3) % 4;
    std::set<int32_t> chosen;
    for (int k = 0; k < kTopK; ++k) {
      const int node = k % 2 == 0 ? first : second;
      chosen.insert(node * 4 + (t / 12 + k / 2) % 4);
    }
    expert_of.insert(expert_of.end(), chosen.begin(), chosen.end());
  }
  return expert_of;
}

// The rows to each rank in "all_to_all bf16 [384, 8] 48+48+... -> ...".
std::vector<int64_t> SentRows(const std::string& line) {
  const std::vector<std::string> words = absl::StrSplit(line, ' ');
  for (const std::string& word : words) {
    if (word.find('+') == word.npos) continue;
    std::vector<int64_t> rows;
    for (const absl::string_view part : absl::StrSplit(word, '+')) {
      int64_t n = 0;
      EXPECT_TRUE(absl::SimpleAtoi(part, &n)) << line;
      rows.push_back(n);
    }
    return rows;
  }
  return {};
}

TEST(ExchangeVolume, RowsOfTheTraceAreTheFormulas) {
  std::vector<parallel::CallLog> logs(kRanks);
  auto groups = parallel::CreateThreadCommunicators(kRanks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      auto device = kernels::DeviceContext::Create({});
      ASSERT_TRUE(device.ok());
      const auto group = parallel::CreateTracingCommunicator(std::move(groups[rank]), logs[rank]);
      auto exchange = parallel::TokenExchange::Create(**device, *group, kExperts, kTopK);
      ASSERT_TRUE(exchange.ok());
      kernels::Stream& stream = (*device)->stream(kernels::StreamRole::kCompute);
      const std::vector<int32_t> routes = Routes(rank);
      parallel::ExchangePlan plan;
      ASSERT_TRUE(
          (*exchange)
              ->Plan(ConstTensorView(routes.data(), DType::kI32, {kTokens, kTopK}), stream, plan)
              .ok());
      const std::vector<float> x(kTokens * kHidden, 1.0f);
      std::vector<float> rows(plan.num_received * kHidden);
      ASSERT_TRUE((*exchange)
                      ->Dispatch(plan, ConstTensorView(x.data(), DType::kF32, {kTokens, kHidden}),
                                 TensorView(rows.data(), DType::kF32, {plan.num_received, kHidden}),
                                 stream)
                      .ok());
      ASSERT_TRUE(stream.Synchronize().ok());
    });
  }
  for (std::thread& thread : threads) thread.join();

  int64_t inside = 0, across = 0, kept = 0;
  for (int rank = 0; rank < kRanks; ++rank) {
    const std::vector<std::string> lines = logs[rank].lines();
    ASSERT_EQ(lines.size(), 2u) << "counts, then rows";
    const std::vector<int64_t> rows = SentRows(lines[1]);
    ASSERT_EQ(rows.size(), static_cast<size_t>(kRanks));
    for (int to = 0; to < kRanks; ++to) {
      (to == rank ? kept : to / kPerNode == rank / kPerNode ? inside : across) += rows[to];
    }
  }
  parallel::ExchangeShape shape{.group = {kRanks, 1},
                                .ranks_per_node = kPerNode,
                                .tokens = kTokens,
                                .experts_per_token = kTopK,
                                .node_limit = kLimit,
                                .row_bytes = 1,
                                .kind = parallel::ExchangeKind::kFlat};
  const parallel::ExchangeBytes flat = parallel::BytesOf(shape);
  EXPECT_EQ(inside + across + kept, int64_t{kRanks} * kTokens * kTopK) << "a row is lost";
  EXPECT_EQ(static_cast<double>(inside), kRanks * flat.inside);
  EXPECT_EQ(static_cast<double>(across), kRanks * flat.across);

  // Through nodes: a token crosses once to each other node that it uses.
  int64_t crossings = 0;
  for (int rank = 0; rank < kRanks; ++rank) {
    const std::vector<int32_t> routes = Routes(rank);
    for (int t = 0; t < kTokens; ++t) {
      std::set<int> nodes;
      for (int k = 0; k < kTopK; ++k) nodes.insert(routes[t * kTopK + k] / 4);
      EXPECT_EQ(nodes.size(), static_cast<size_t>(kLimit));
      nodes.erase(rank / kPerNode);
      crossings += static_cast<int64_t>(nodes.size());
    }
  }
  // The formula takes K independent draws of the limit's nodes, which miss one of two with 2 / 2^K;
  // here both are always used.
  shape.kind = parallel::ExchangeKind::kHierarchical;
  const double reached = parallel::ExpectedNodes(4, kTopK, kLimit);
  EXPECT_DOUBLE_EQ(reached, 2 * (1 - 1.0 / 16));
  EXPECT_NEAR(static_cast<double>(crossings),
              kRanks * parallel::BytesOf(shape).across * kLimit / reached, 1e-6);
}

}  // namespace
}  // namespace sluice::testing
