// What LayoutCosts charges for exchanges, in bytes: on links of one byte a second and no latency a
// second is a byte. Beside it the rows that the exchange is seen to send
// (tests/parallel/exchange_volume_test.cc).   H columns, T tokens of a rank, K experts a token
#include <gtest/gtest.h>

#include "kernels/ops/block_quantize.h"
#include "parallel/plan/layout.h"

namespace sluice::parallel {
namespace {

constexpr int kNodes = 8, kPerNode = 2, kTokens = 64, kTopK = 8, kLimit = 4;

enum class Counted : uint8_t { kInside, kAcross };

ExchangeShape Flat(double row_bytes) {
  return {.group = {kNodes * kPerNode, 1},
          .ranks_per_node = kPerNode,
          .tokens = kTokens,
          .experts_per_token = kTopK,
          .node_limit = kLimit,
          .row_bytes = row_bytes,
          .kind = ExchangeKind::kFlat};
}

// Of one phase of a forward in FP8.
double BytesCharged(PhaseKind kind, int64_t hidden, ExchangeKind exchange, Counted counted) {
  ModelWork model;
  model.layers.resize(1);
  model.layers[0].is_moe = true;
  model.hidden = hidden;
  model.sequence_length = kTokens;
  model.experts = 64;
  model.experts_per_token = kTopK;
  model.groups = kNodes;
  model.group_limit = kLimit;
  Cluster cluster;
  cluster.nodes = kNodes;
  cluster.device.peak_fp8 = cluster.device.peak_bf16 = 1;
  const Link counting{.bytes_per_second = 1}, none{.bytes_per_second = 1e300};
  cluster.network = {kPerNode, counted == Counted::kInside ? counting : none,
                     counted == Counted::kAcross ? counting : none};
  Layout layout;
  layout.data = layout.expert = kNodes * kPerNode;
  layout.precision = Precision::kFp8;
  layout.exchange = exchange;
  double bytes = 0;
  for (const Phase& phase : LayoutCosts(model, cluster, layout).LayerCost(model.layers[0]).forward)
    if (phase.kind == kind) bytes += phase.seconds;
  return bytes;
}

// DeepSeek-V3 sends four bytes of scale a tile of 128, this program one, in rows of whole 16 bytes:
// at 512 columns both have 16 beside the codes, and prices must be what is sent.
TEST(ExchangePrice, IsOfTheBytesThatAreSent) {
  const double wire = static_cast<double>(kernels::WireRowBytes(512));
  const auto charged = [](PhaseKind kind, Counted counted) {
    return BytesCharged(kind, 512, ExchangeKind::kFlat, counted);
  };
  EXPECT_DOUBLE_EQ(charged(PhaseKind::kDispatch, Counted::kInside), BytesOf(Flat(wire)).inside);
  EXPECT_DOUBLE_EQ(charged(PhaseKind::kDispatch, Counted::kAcross), BytesOf(Flat(wire)).across);
  EXPECT_DOUBLE_EQ(charged(PhaseKind::kCombine, Counted::kInside), BytesOf(Flat(2 * 512)).inside);
  EXPECT_DOUBLE_EQ(charged(PhaseKind::kCombine, Counted::kAcross), BytesOf(Flat(2 * 512)).across);
}

// At other widths a row is priced up to the three bytes a tile that are not sent too high, up to
// the padding too low: at 7168 columns 7392 for 7232, 2.2 %.
TEST(ExchangePrice, RowsOfOtherWidthsDifferByScalesAndPadding) {
  for (int64_t hidden = 128; hidden <= 8192; hidden += 128) {
    const double priced =
        BytesCharged(PhaseKind::kDispatch, hidden, ExchangeKind::kFlat, Counted::kAcross) /
        BytesOf(Flat(1)).across;
    const auto wire = static_cast<double>(kernels::WireRowBytes(hidden));
    const double tiles = static_cast<double>(hidden) / 128;
    EXPECT_LE(wire - priced, 15 - 3 * tiles + 1e-6) << hidden;
    EXPECT_GE(wire - priced, -3 * tiles - 1e-6) << hidden;
  }
}

// Groups of experts that lie on nodes of their own limit a token to so many nodes.
TEST(ExchangePrice, TheGatesLimitReachesTheHierarchicalExchange) {
  ExchangeShape shape = Flat(528);
  shape.kind = ExchangeKind::kHierarchical;
  EXPECT_DOUBLE_EQ(
      BytesCharged(PhaseKind::kDispatch, 512, ExchangeKind::kHierarchical, Counted::kAcross),
      BytesOf(shape).across);
  shape.node_limit = 0;
  EXPECT_LT(BytesCharged(PhaseKind::kDispatch, 512, ExchangeKind::kHierarchical, Counted::kAcross),
            0.9 * BytesOf(shape).across);
}

}  // namespace
}  // namespace sluice::parallel
