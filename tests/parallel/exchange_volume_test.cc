// The planner's volume formulas against the bytes that the exchange really hands to its
// communicator, counted from a trace: what an MoE layer in FP8 sends in a forward and a backward.
//   R ranks on N virtual nodes, T tokens a rank, K experts a token, H columns
//
// parallel/expert is flat, a row to each expert's rank. What the hierarchical exchange would send
// across nodes stays arithmetic: nobody sends it here, the nodes of the same routes are counted.
#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "kernels/ops/block_quantize.h"
#include "parallel/comm/decorators.h"
#include "parallel/expert/token_exchange.h"
#include "parallel/sim/links.h"
#include "tests/support/tensor.h"
#include "tests/support/thread_ranks.h"

namespace sluice::testing {
namespace {

using kernels::DType;

constexpr int kRanks = 16, kPerNode = 2, kNodes = kRanks / kPerNode;
constexpr int kOnNode = 4, kExperts = kNodes * kOnNode, kTopK = 8, kLimit = 4;  // experts
constexpr int kTokens = 64, kHidden = 256;

// DeepSeek-V3's gate: eight experts on four of eight nodes. In turns, so that every rank gets the
// same number of rows of each: token t of rank r takes two experts on each of kLimit nodes.
std::vector<int32_t> Routes(int rank) {
  std::vector<int32_t> expert_of;
  for (int t = 0; t < kTokens; ++t) {
    std::set<int32_t> chosen;
    for (int i = 0; i < kLimit; ++i) {
      const int node = (rank / kPerNode + t + i) % kNodes;
      for (const int k : {0, 1}) chosen.insert(node * kOnNode + (t / kNodes + k) % kOnNode);
    }
    expert_of.insert(expert_of.end(), chosen.begin(), chosen.end());
  }
  return expert_of;
}

// "all_to_all bf16 [384, 8] 48+48+... -> ..."
struct SentRows {
  std::string dtype;
  int64_t columns = 0;
  std::vector<int64_t> to;  // rows to each rank
  int64_t RowBytes() const { return columns * (dtype == "u8" ? 1 : dtype == "bf16" ? 2 : 0); }
};
SentRows Parse(const std::string& line) {
  const std::vector<std::string> words = absl::StrSplit(line, ' ');
  EXPECT_GE(words.size(), 5u) << line;
  EXPECT_EQ(words[0], "all_to_all");
  SentRows sent{.dtype = words[1]};
  EXPECT_TRUE(absl::SimpleAtoi(words[3].substr(0, words[3].size() - 1), &sent.columns)) << line;
  for (const absl::string_view part : absl::StrSplit(words[4], '+')) {
    EXPECT_TRUE(absl::SimpleAtoi(part, &sent.to.emplace_back())) << line;
  }
  return sent;
}

// The exchanges of one MoE layer, as trainer/model/moe_layer.cc makes them in FP8.
void ForwardAndBackward(parallel::Communicator& group, kernels::DeviceContext& device) {
  const auto exchange = parallel::TokenExchange::Create(device, group, kExperts, kTopK).value();
  kernels::Stream& stream = device.stream(kernels::StreamRole::kCompute);
  const std::vector<int32_t> routes = Routes(group.rank());
  parallel::ExchangePlan plan;
  ASSERT_EQ(exchange->Plan(kernels::ConstTensorView(routes.data(), DType::kI32, {kTokens, kTopK}),
                           stream, plan),
            absl::OkStatus());
  const Tensor x = Tensor::Random({kTokens, kHidden}, DType::kBF16, 1 + group.rank());
  const kernels::Shape wire_shape{kTokens, kernels::WireRowBytes(kHidden)};
  const Tensor codes({kTokens, kHidden}, DType::kE4M3), wire(wire_shape, DType::kU8);
  const Tensor scales({kTokens, kernels::NumTiles(kHidden)});
  const kernels::QuantizedRows quantized{codes, scales};
  kernels::Quantize(
      stream,
      {.x = x, .rows = quantized, .options = {.format = kernels::ScaleFormat::kPowerOfTwo}});
  kernels::PackWireRows(stream, {.rows = quantized, .wire = wire});
  const Tensor received({plan.num_received, kernels::WireRowBytes(kHidden)}, DType::kU8);
  ASSERT_EQ(exchange->Dispatch(plan, wire, received, stream), absl::OkStatus());

  const Tensor rows({plan.num_received, kHidden}, DType::kBF16),
      y({kTokens, kHidden}, DType::kBF16);
  const Tensor returned({kTokens * kTopK, kHidden}, DType::kBF16);
  const Tensor weights({kTokens, kTopK}), d_weights({kTokens, kTopK});
  ASSERT_EQ(exchange->Combine(plan, rows, weights, {}, returned, y, stream), absl::OkStatus());
  ASSERT_EQ(exchange->CombineBackward(plan, x, returned, weights, rows, d_weights, stream),
            absl::OkStatus());
  ASSERT_EQ(exchange->DispatchBackward(plan, rows, {}, y, stream), absl::OkStatus());
  ASSERT_EQ(stream.Synchronize(), absl::OkStatus());
}

parallel::ExchangeShape ShapeOf(double row_bytes, parallel::ExchangeKind kind) {
  return {.group = {kRanks, 1},
          .ranks_per_node = kPerNode,
          .tokens = kTokens,
          .experts_per_token = kTopK,
          .node_limit = kLimit,
          .row_bytes = row_bytes,
          .kind = kind};
}

TEST(ExchangeVolume, BytesOfTheTraceAreTheFormulas) {
  std::vector<parallel::CallLog> logs(kRanks);
  RunThreadRanks(kRanks, kernels::CpuStreamMode::kInline,
                 [&](parallel::Communicator& group, kernels::DeviceContext& device) {
                   // (A view of the group that is the test's: the tracer wants one of its own.)
                   const auto traced = parallel::CreateTracingCommunicator(
                       group.Split(0, group.rank()).value(), logs[group.rank()]);
                   ForwardAndBackward(*traced, device);
                 });
  // Codes and scales to the experts, BF16 everywhere else. (In backward DeepSeek-V3 sends what a
  // combine gives back in FP8 as well, and so does the price list of parallel/plan.)
  const struct {
    const char* name;
    int64_t row_bytes;
  } calls[] = {{"dispatch", kernels::WireRowBytes(kHidden)},
               {"combine", 2 * kHidden},
               {"combine's backward", 2 * kHidden},
               {"dispatch's backward", 2 * kHidden}};
  for (size_t call = 0; call < std::size(calls); ++call) {
    SCOPED_TRACE(calls[call].name);
    int64_t inside = 0, across = 0, kept = 0;
    for (int rank = 0; rank < kRanks; ++rank) {
      const std::vector<std::string> lines = logs[rank].lines();
      ASSERT_EQ(lines.size(), 1 + std::size(calls)) << "counts, then rows";
      const SentRows sent = Parse(lines[1 + call]);
      ASSERT_EQ(sent.to.size(), size_t{kRanks});
      for (int to = 0; to < kRanks; ++to) {
        (to == rank                         ? kept
         : to / kPerNode == rank / kPerNode ? inside
                                            : across) += sent.to[to] * sent.RowBytes();
      }
    }
    const parallel::ExchangeBytes flat = parallel::BytesOf(
        ShapeOf(static_cast<double>(calls[call].row_bytes), parallel::ExchangeKind::kFlat));
    EXPECT_EQ(inside + across + kept, int64_t{kRanks} * kTokens * kTopK * calls[call].row_bytes);
    EXPECT_EQ(static_cast<double>(inside), kRanks * flat.inside);
    EXPECT_EQ(static_cast<double>(across), kRanks * flat.across);
  }
}

// Arithmetic only, of the same routes: through nodes a token crosses once to each other node that
// it uses. The formula takes K independent draws of the limit's nodes, which miss one of M with
// (1 - 1/M)^K; here all are used.
TEST(ExchangeVolume, CrossingsOfTheRoutesAreTheHierarchicalFormulas) {
  int64_t crossings = 0;
  for (int rank = 0; rank < kRanks; ++rank) {
    const std::vector<int32_t> routes = Routes(rank);
    for (int t = 0; t < kTokens; ++t) {
      std::set<int> nodes;
      for (int k = 0; k < kTopK; ++k) nodes.insert(routes[t * kTopK + k] / kOnNode);
      EXPECT_EQ(nodes.size(), size_t{kLimit});
      nodes.erase(rank / kPerNode);
      crossings += static_cast<int64_t>(nodes.size());
    }
  }
  const double reached = parallel::ExpectedNodes(kNodes, kTopK, kLimit);
  EXPECT_DOUBLE_EQ(reached, 4 * (1 - 6561.0 / 65536));  // (3/4)^8
  const parallel::ExchangeBytes rows =
      parallel::BytesOf(ShapeOf(1, parallel::ExchangeKind::kHierarchical));
  EXPECT_NEAR(static_cast<double>(crossings), kRanks * rows.across * kLimit / reached, 1e-6);
}

}  // namespace
}  // namespace sluice::testing
