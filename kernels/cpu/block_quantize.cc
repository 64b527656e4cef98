#include "kernels/cpu/block_quantize.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/e4m3_scale.h"
#include "kernels/cpu/op_table.h"
#include "kernels/cpu/row_tiles.h"

#define SLUICE_TARGET_FILE "kernels/cpu/block_quantize-inl.h"
#include "kernels/cpu/foreach_target.h"

namespace sluice::kernels::cpu {

BlockQuantizeTable BlockQuantizeTableOf(Target target) {
  return SLUICE_TABLE_OF(kBlockQuantizeTable, target);
}

void Quantize(ThreadPool& pool, const QuantizeArgs& args) {
  const BlockQuantizeTable& table = Table().block_quantize;
  const auto quantize = args.x.dtype() == DType::kBF16 ? table.quantize_bf16 : table.quantize_f32;
  ForEachRowTile(pool, args.x.extent(0), args.offsets,
                 [&](const RowTile& tile) { quantize(args, tile); });
}

void RequantizeColumns(ThreadPool& pool, const RequantizeColumnsArgs& args) {
  const auto requantize = Table().block_quantize.requantize;
  ForEachRowTile(pool, args.rows.codes.extent(0), args.offsets,
                 [&](const RowTile& tile) { requantize(args, tile); });
}

void DequantizeRows(ThreadPool& pool, const DequantizeRowsArgs& args) {
  RunRanges(pool, args.y.extent(0), args.y.extent(1),
            Table().block_quantize.dequantize[args.y.dtype()], args);
}

void QuantizeWeight(ThreadPool& pool, const QuantizeWeightArgs& args) {
  const BlockQuantizeTable& table = Table().block_quantize;
  const auto quantize =
      args.w.dtype() == DType::kBF16 ? table.quantize_weight_bf16 : table.quantize_weight_f32;
  const int64_t height = args.w.extent(1), num_tiles = args.weight.scales.extent(1);
  const ConstTensorView& bounds = args.weight.row_tiles;
  pool.ParallelFor(args.w.extent(0) * num_tiles, [&](int64_t task) {
    RowTile tile;
    tile.index = task % num_tiles;
    tile.begin = bounds.is_null() ? tile.index * kQuantTile : bounds.data<int32_t>()[tile.index];
    tile.end = bounds.is_null() ? std::min(height, tile.begin + kQuantTile)
                                : bounds.data<int32_t>()[tile.index + 1];
    quantize(args, task / num_tiles, tile);
  });
}

// The rows of a tile are rows whose scales stand in one row.
void DequantizeWeight(ThreadPool& pool, const DequantizeWeightArgs& args) {
  const QuantizedWeight& weight = args.weight;
  const auto dequantize = Table().block_quantize.dequantize[args.w.dtype()];
  const int64_t height = args.w.extent(1), width = args.w.extent(2);
  const int64_t num_tiles = weight.scales.extent(1), columns = weight.scales.extent(2);
  const ConstTensorView& bounds = weight.row_tiles;
  const auto size = static_cast<int64_t>(SizeOf(args.w.dtype()));
  pool.ParallelFor(args.w.extent(0) * num_tiles, [&](int64_t task) {
    const int64_t e = task / num_tiles, index = task % num_tiles;
    const int64_t begin = bounds.is_null() ? index * kQuantTile : bounds.data<int32_t>()[index];
    const int64_t end =
        bounds.is_null() ? std::min(height, begin + kQuantTile) : bounds.data<int32_t>()[index + 1];
    for (int64_t r = begin; r < end; ++r) {
      auto* codes = weight.codes.mutable_data<E4M3>() + e * weight.codes.row_stride() + r * width;
      auto* scales =
          weight.scales.mutable_data<float>() + e * weight.scales.row_stride() + index * columns;
      auto* w = static_cast<char*>(args.w.raw_mutable_data()) +
                (e * args.w.row_stride() + r * width) * size;
      dequantize({.rows = {.codes = TensorView(codes, DType::kE4M3, {1, width}),
                           .scales = TensorView(scales, DType::kF32, {1, columns})},
                  .y = TensorView(w, args.w.dtype(), {1, width})},
                 0, 1);
    }
  });
}

void PackWireRows(ThreadPool& pool, const WireRowsArgs& args) {
  const int64_t width = args.rows.codes.extent(1), tiles = args.rows.scales.extent(1);
  const int64_t bytes = args.wire.extent(1);
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, bytes));
  pool.ParallelRanges(args.wire.extent(0), grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      uint8_t* wire = args.wire.mutable_data<uint8_t>() + r * args.wire.row_stride();
      std::memcpy(wire, args.rows.codes.data<E4M3>() + r * args.rows.codes.row_stride(),
                  static_cast<size_t>(width));
      const float* scales = args.rows.scales.data<float>() + r * args.rows.scales.row_stride();
      for (int64_t i = 0; i < tiles; ++i) wire[width + i] = ToUe8m0(scales[i]);
      std::memset(wire + width + tiles, 0, static_cast<size_t>(bytes - width - tiles));
    }
  });
}

void UnpackWireRows(ThreadPool& pool, const WireRowsArgs& args) {
  const int64_t width = args.rows.codes.extent(1), tiles = args.rows.scales.extent(1);
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, width));
  pool.ParallelRanges(args.wire.extent(0), grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const uint8_t* wire = args.wire.data<uint8_t>() + r * args.wire.row_stride();
      std::memcpy(args.rows.codes.mutable_data<E4M3>() + r * args.rows.codes.row_stride(), wire,
                  static_cast<size_t>(width));
      float* scales = args.rows.scales.mutable_data<float>() + r * args.rows.scales.row_stride();
      for (int64_t i = 0; i < tiles; ++i) scales[i] = FromUe8m0(wire[width + i]);
    }
  });
}

// Runs on reports only, so it is written once, plainly.
void AddQuantizationStats(const QuantizationStatsArgs& args) {
  const int64_t width = args.x.extent(1);
  const bool is_bf16 = args.x.dtype() == DType::kBF16;
  for (int64_t r = 0; r < args.x.extent(0); ++r) {
    const E4M3* codes = args.rows.codes.data<E4M3>() + r * args.rows.codes.row_stride();
    const float* scales = args.rows.scales.data<float>() + r * args.rows.scales.row_stride();
    int64_t tile = 0;
    for (int64_t c = 0; c < width; ++c) {
      const int64_t next =
          args.tiles.is_null() ? (tile + 1) * kQuantTile : args.tiles.data<int32_t>()[tile + 1];
      if (c == next) ++tile;
      const int64_t at = r * args.x.row_stride() + c;
      const float x = is_bf16 ? ToFloat(args.x.data<BFloat16>()[at]) : args.x.data<float>()[at];
      const float magnitude = std::abs(x);
      if (magnitude > args.stats->amax) args.stats->amax = magnitude;
      const float scaled = magnitude * (1.0f / scales[tile]);
      args.stats->underflows += x != 0.0f && (codes[c].bits & 0x7f) == 0;
      args.stats->clipped += !(scaled < 464.0f);
    }
  }
  args.stats->count += args.x.num_elements();
}

// Row by row: the rows of a block share their scales.
void AddWeightStats(const WeightStatsArgs& args) {
  CHECK_EQ(args.w.extent(0), 1);
  const ConstTensorView& bounds = args.weight.row_tiles;
  const int64_t height = args.w.extent(1), width = args.w.extent(2);
  const Shape of_scales = {args.weight.scales.extent(1), args.weight.scales.extent(2)};
  const ConstTensorView w(args.w.raw_data(), args.w.dtype(), {height, width});
  const TensorView codes(args.weight.codes.raw_mutable_data(), DType::kE4M3, {height, width});
  const TensorView scales(args.weight.scales.raw_mutable_data(), DType::kF32, of_scales);
  for (int64_t r = 0, tile = 0; r < height; ++r) {
    const int64_t next =
        bounds.is_null() ? (tile + 1) * kQuantTile : bounds.data<int32_t>()[tile + 1];
    if (r == next) ++tile;
    AddQuantizationStats({.x = w.Rows(r, 1),
                          .rows = {.codes = codes.Rows(r, 1), .scales = scales.Rows(tile, 1)},
                          .stats = args.stats});
  }
}

}  // namespace sluice::kernels::cpu
