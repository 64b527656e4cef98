#include "kernels/ops/block_quantize.h"

#include "kernels/cpu/block_quantize.h"
#include "kernels/ops/check_arguments.h"
#include "kernels/ops/check_quantized.h"
#include "kernels/ops/dispatch.h"
#include "kernels/ops/host_operands.h"

namespace sluice::kernels {
namespace {

// Tile bounds are read when the op runs on the CPU; their number is known before.
int64_t NumTilesOf(const Stream& stream, const ConstTensorView& tiles, int64_t extent) {
  if (tiles.is_null()) return NumTiles(extent);
  CheckTensor(stream, "tiles", tiles, tiles.shape(), DType::kI32);
  CHECK(tiles.shape().rank() == 1 && tiles.extent(0) >= 1) << "tiles is " << tiles.shape();
  return tiles.extent(0) - 1;
}

void CheckTileValues(const ConstTensorView& tiles, int64_t extent) {
  if (tiles.is_null()) return;
  const int32_t* bounds = tiles.data<int32_t>();
  const int64_t n = tiles.extent(0) - 1;
  CHECK_EQ(bounds[0], 0);
  for (int64_t i = 0; i < n; ++i) {
    CHECK(bounds[i] < bounds[i + 1] && bounds[i + 1] - bounds[i] <= kQuantTile)
        << "tile " << i << " is [" << bounds[i] << ", " << bounds[i + 1] << ")";
  }
  CHECK_EQ(bounds[n], extent);
}

void CheckWeight(const Stream& stream, const QuantizedWeight& weight, const ConstTensorView& w) {
  CHECK_EQ(w.shape().rank(), 3);
  const int64_t experts = w.extent(0), out = w.extent(1), in = w.extent(2);
  CheckTensor(stream, "w", w, w.shape(), CheckFloat("w", w));
  const int64_t row_tiles = NumTilesOf(stream, weight.row_tiles, out), columns = NumTiles(in);
  CheckTensor(stream, "weight.codes", weight.codes, w.shape(), DType::kE4M3);
  CheckTensor(stream, "weight.scales", weight.scales, {experts, row_tiles, columns}, DType::kF32);
  if (weight.transposed_codes.is_null()) return;
  CheckTensor(stream, "weight.transposed_codes", weight.transposed_codes, {experts, in, out},
              DType::kE4M3);
  CheckTensor(stream, "weight.transposed_scales", weight.transposed_scales,
              {experts, columns, row_tiles}, DType::kF32);
}

void CheckWire(const Stream& stream, const WireRowsArgs& args) {
  const Shape shape = args.rows.codes.shape();
  CheckRows(stream, args.rows, shape, NumTiles(shape[1]));
  CheckTensor(stream, "wire", args.wire, {shape[0], WireRowBytes(shape[1])}, DType::kU8);
}

}  // namespace

void Quantize(Stream& stream, const QuantizeArgs& args) {
  const Shape shape = args.x.shape();
  CHECK_EQ(shape.rank(), 2);
  CheckTensor(stream, "Quantize.x", args.x, shape, CheckFloat("Quantize.x", args.x));
  const int64_t num_tiles = NumTilesOf(stream, args.tiles, shape[1]);
  const int64_t groups = CheckOffsets(stream, args.offsets);
  if (!args.rows.is_null()) CheckRows(stream, args.rows, shape, num_tiles);
  if (!args.columns.is_null()) CheckColumns(stream, args.columns, shape, groups);
  if constexpr (kWithCuda) {
    if (IsOnCuda(stream)) return cuda::Quantize(stream, args);
  }
  CpuStream::From(stream).Run([args](ThreadPool& pool) {
    CheckTileValues(args.tiles, args.x.extent(1));
    cpu::Quantize(pool, args);
  });
}

void RequantizeColumns(Stream& stream, const RequantizeColumnsArgs& args) {
  const Shape shape = args.rows.codes.shape();
  CHECK_EQ(shape.rank(), 2);
  CheckRows(stream, args.rows, shape, NumTilesOf(stream, args.tiles, shape[1]));
  CheckColumns(stream, args.columns, shape, CheckOffsets(stream, args.offsets));
  if constexpr (kWithCuda) {
    if (IsOnCuda(stream)) return cuda::RequantizeColumns(stream, args);
  }
  CpuStream::From(stream).Run([args](ThreadPool& pool) {
    CheckTileValues(args.tiles, args.rows.codes.extent(1));
    cpu::RequantizeColumns(pool, args);
  });
}

void DequantizeRows(Stream& stream, const DequantizeRowsArgs& args) {
  const Shape shape = args.y.shape();
  CHECK_EQ(shape.rank(), 2);
  CheckTensor(stream, "DequantizeRows.y", args.y, shape, CheckFloat("DequantizeRows.y", args.y));
  CheckRows(stream, args.rows, shape, NumTilesOf(stream, args.tiles, shape[1]));
  if constexpr (kWithCuda) {
    if (IsOnCuda(stream)) return cuda::DequantizeRows(stream, args);
  }
  CpuStream::From(stream).Run([args](ThreadPool& pool) {
    CheckTileValues(args.tiles, args.y.extent(1));
    cpu::DequantizeRows(pool, args);
  });
}

void QuantizeWeight(Stream& stream, const QuantizeWeightArgs& args) {
  CheckWeight(stream, args.weight, args.w);
  if constexpr (kWithCuda) {
    if (IsOnCuda(stream)) return cuda::QuantizeWeight(stream, args);
  }
  CpuStream::From(stream).Run([args](ThreadPool& pool) {
    CheckTileValues(args.weight.row_tiles, args.w.extent(1));
    cpu::QuantizeWeight(pool, args);
  });
}

void DequantizeWeight(Stream& stream, const DequantizeWeightArgs& args) {
  QuantizedWeight weight = args.weight;
  weight.transposed_codes = TensorView();
  CheckWeight(stream, weight, args.w);
  if constexpr (kWithCuda) {
    if (IsOnCuda(stream)) return cuda::DequantizeWeight(stream, args);
  }
  CpuStream::From(stream).Run([args](ThreadPool& pool) {
    CheckTileValues(args.weight.row_tiles, args.w.extent(1));
    cpu::DequantizeWeight(pool, args);
  });
}

void PackWireRows(Stream& stream, const WireRowsArgs& args) {
  CheckWire(stream, args);
  RUN_OP(stream, PackWireRows, args);
}

void UnpackWireRows(Stream& stream, const WireRowsArgs& args) {
  CheckWire(stream, args);
  RUN_OP(stream, UnpackWireRows, args);
}

void AddQuantizationStats(Stream& stream, const QuantizationStatsArgs& args) {
  const Shape shape = args.x.shape();
  CHECK_EQ(shape.rank(), 2);
  CheckTensor(stream, "x", args.x, shape, CheckFloat("x", args.x));
  CheckRows(stream, args.rows, shape, NumTilesOf(stream, args.tiles, shape[1]));
  CHECK(args.stats != nullptr);
  HostOperands host(stream);
  const QuantizationStatsArgs on_host = {
      .x = host.Of(args.x),
      .rows = {.codes = host.Of(args.rows.codes), .scales = host.Of(args.rows.scales)},
      .tiles = host.Of(args.tiles),
      .stats = args.stats};
  host.Run([on_host] {
    CheckTileValues(on_host.tiles, on_host.x.extent(1));
    cpu::AddQuantizationStats(on_host);
  });
}

// An expert at a time: copies of all may be more than the host has.
void AddWeightStats(Stream& stream, const WeightStatsArgs& args) {
  QuantizedWeight weight = args.weight;
  weight.transposed_codes = TensorView();
  CheckWeight(stream, weight, args.w);
  CHECK(args.stats != nullptr);
  for (int64_t e = 0; e < args.w.extent(0); ++e) {
    HostOperands host(stream);
    const WeightStatsArgs on_host = {.w = host.Of(args.w.Rows(e, 1)),
                                     .weight = {.codes = host.Of(weight.codes.Rows(e, 1)),
                                                .scales = host.Of(weight.scales.Rows(e, 1)),
                                                .row_tiles = host.Of(weight.row_tiles)},
                                     .stats = args.stats};
    host.Run([on_host] {
      CheckTileValues(on_host.weight.row_tiles, on_host.w.extent(1));
      cpu::AddWeightStats(on_host);
    });
  }
}

}  // namespace sluice::kernels
