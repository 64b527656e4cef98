// SwiGLU and its gradient, quantised from registers: a value is computed where the quantiser has
// it, and only its codes are written, unless the values are asked for too.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/quantize_codes.cuh"
#include "kernels/cuda/quantize_tile.cuh"
#include "kernels/cuda/swiglu.cuh"

namespace sluice::kernels::cuda {
namespace {

using Held = HeldNumbers<bfloat16>;
constexpr int kTurn = 4;  // rows of a thread whose loads are under way together

struct SwigluQuantizeParameters {
  Rows<const bfloat16> dy;  // of the gradient alone
  Rows<const bfloat16> gate, up;
  Rows<bfloat16> y, dup;  // of the gradient: dgate and dup; or null
  uint32_t num_tiles;     // of gate
  RowTiles row_tiles;
  int64_t width;
  CodesOfTiles to;
};

// The tile that a block has, neighbours along a row of scales first; false where there is none.
__device__ bool FindTile(const SwigluQuantizeParameters& p, QuantizeShared& shared,
                         HeldTile<Held>& tile) {
  tile.scale_row = blockIdx.x / p.num_tiles;
  tile.tile = blockIdx.x % p.num_tiles;
  tile.area.rows = p.row_tiles.TileOfScale(tile.scale_row, &shared.rows);
  if (tile.area.rows.begin == tile.area.rows.end) return false;
  tile.area.columns = TileAt(nullptr, tile.tile, p.width);
  return true;
}

__device__ void StoreValues(const Chunk<bfloat16, kChunk>& x, Rows<bfloat16> to,
                            const TileArea& area, int i) {
  if (to.is_null()) return;
  const Part<bfloat16> part = area.At(to, i);
  StoreChunk(x, part.at, part.left, area.IsCut(to));
}

__global__ void __launch_bounds__(kQuantizeThreads, 4)
    swiglu_quantize_kernel(const SwigluQuantizeParameters p) {
  __shared__ QuantizeShared shared;
  HeldTile<Held> tile;
  if (!FindTile(p, shared, tile)) return;
  const bool is_cut = tile.area.IsCut(p.gate) && tile.area.IsCut(p.up);
#pragma unroll
  for (int first = 0; first < kChunks; first += kTurn) {
    Chunk<bfloat16, kChunk> in[2 * kTurn];  // gates, then ups
    LoadChunks(in, is_cut,
               [&](int k) { return tile.area.At(k < kTurn ? p.gate : p.up, first + k % kTurn); });
#pragma unroll
    for (int i = 0; i < kTurn; ++i) {
      tile.x.x[first + i] = SwigluOf(in[i], in[kTurn + i]);
      StoreValues(tile.x.x[first + i], p.y, tile.area, first + i);
    }
  }
  QuantizeTile<true>(p.to, tile, shared);
}

// Block: a tile of gate's gradient and the one of up's that is computed with it.
__global__ void __launch_bounds__(kQuantizeThreads, 2)
    swiglu_backward_quantize_kernel(const SwigluQuantizeParameters p) {
  __shared__ QuantizeShared shared;
  HeldTile<Held> gate, up;
  if (!FindTile(p, shared, gate)) return;
  const TileArea& area = gate.area;
  const bool is_cut = area.IsCut(p.gate) && area.IsCut(p.up) && area.IsCut(p.dy);
#pragma unroll
  for (int first = 0; first < kChunks; first += kTurn) {
    Chunk<bfloat16, kChunk> in[3 * kTurn];  // gates, ups, dys
    LoadChunks(in, is_cut, [&](int k) {
      const Rows<const bfloat16> from = k < kTurn ? p.gate : k < 2 * kTurn ? p.up : p.dy;
      return area.At(from, first + k % kTurn);
    });
#pragma unroll
    for (int i = 0; i < kTurn; ++i) {
      TakeSwigluGradient(in[2 * kTurn + i], in[i], in[kTurn + i]);
      gate.x.x[first + i] = in[i];
      up.x.x[first + i] = in[kTurn + i];
      StoreValues(in[i], p.y, area, first + i);
      StoreValues(in[kTurn + i], p.dup, area, first + i);
    }
  }
  QuantizeTile<true>(p.to, gate, shared);
  up.area = {area.rows, {area.columns.begin + p.width, area.columns.end + p.width}};
  up.scale_row = gate.scale_row;
  up.tile = gate.tile + p.num_tiles;
  QuantizeTile<true>(p.to, up, shared);
}

// The columns from `column` on.
template <typename T>
Rows<T> From(Rows<T> rows, int64_t column) {
  if (!rows.is_null()) rows.data += column;
  return rows;
}

template <typename Args>
SwigluQuantizeParameters ParametersOf(const Args& args, const TensorView& values, int64_t width) {
  const Rows<const bfloat16> gate_up = RowsOf<bfloat16>(args.gate_up);
  const Rows<bfloat16> to = MutableRowsOf<bfloat16>(values);
  return {.dy = {},
          .gate = gate_up,
          .up = From(gate_up, width),
          .y = to,
          .dup = From(to, width),
          .num_tiles = static_cast<uint32_t>(NumTiles(width)),
          .row_tiles = RowTilesOf(args.offsets, args.gate_up.extent(0)),
          .width = width,
          .to = CodesOf(args.options, args.rows, args.columns)};
}

LaunchShape ShapeOf(const SwigluQuantizeParameters& p, const ConstTensorView& offsets) {
  return {.blocks = NumScaleRows(offsets, p.row_tiles.rows) * p.num_tiles,
          .threads = kQuantizeThreads};
}

}  // namespace

void SwigluQuantize(Stream& stream, const SwigluQuantizeArgs& args) {
  const auto p = ParametersOf(args, args.y, args.gate_up.extent(1) / 2);
  Launch(stream, ShapeOf(p, args.offsets), swiglu_quantize_kernel, p);
}

void SwigluBackwardQuantize(Stream& stream, const SwigluBackwardQuantizeArgs& args) {
  auto p = ParametersOf(args, args.dgate_up, args.dy.extent(1));
  p.dy = RowsOf<bfloat16>(args.dy);
  Launch(stream, ShapeOf(p, args.offsets), swiglu_backward_quantize_kernel, p);
}

}  // namespace sluice::kernels::cuda
