// The codes of a tile of numbers that lies in the registers of a block, along rows, along columns,
// or both: what every kernel that quantises ends with. To the bit as docs/fp8.md says.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/quantize_tile.cuh"

namespace sluice::kernels::cuda {

// Where they go.
struct CodesOfTiles {
  QuantizeOptions options;
  Rows<uint8_t> row_codes = {}, column_codes = {};  // either may be null
  Rows<float> row_scales = {}, column_scales = {};
  bool is_transposed = false;  // column_codes
};

// On the host.
inline CodesOfTiles CodesOf(const QuantizeOptions& options, const QuantizedRows& rows,
                            const QuantizedColumns& columns) {
  CodesOfTiles to = {.options = options};
  if (!rows.is_null()) {
    to.row_codes = MutableRowsOf<uint8_t>(rows.codes);
    to.row_scales = MutableRowsOf<float>(rows.scales);
  }
  if (!columns.is_null()) {
    to.column_codes = MutableRowsOf<uint8_t>(columns.codes);
    to.column_scales = MutableRowsOf<float>(columns.scales);
    to.is_transposed = columns.transposed;
  }
  return to;
}

// A thread's part of a tile of T. Values<true>, of whatever is held, may give a NaN another sign.
template <typename T>
struct HeldNumbers {
  Chunk<T, kChunk> x[kChunks];
  template <bool kFinite>
  __device__ void Values(int i, float (&to)[kChunk]) const {
    ToFloats(x[i], to);
  }
};

// A tile in registers.
template <typename Held>
struct HeldTile {
  TileArea area;
  int64_t scale_row, tile;  // its place among the tiles
  Held x;
};

// encode(std::true_type()) where the values of this warp are finite, else std::false_type.
template <typename Encode>
__device__ void ForFinite(float zeros, const Encode& encode) {
  if (__all_sync(kAllLanes, zeros == 0.0f)) {
    encode(std::true_type());
  } else {
    encode(std::false_type());
  }
}

// Codes of 1 x 128, or all with the scale of `block_amax`, if that is not negative.
template <typename Held>
__device__ void QuantizeAlongRows(const CodesOfTiles& to, HeldTile<Held>& held, float block_amax) {
  float amax[kChunks], zeros = 0.0f;
  TakeForNew(held.x.x);
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    float x[kChunk];
    held.x.template Values<true>(i, x);
    amax[i] = LargestOf(x);
    zeros = AddZeros(zeros, x);
  }
  // A row's scale is one thread's work.
  const float of_row = LargestOfRows(amax);
  const float scale = ScaleOf(block_amax >= 0 ? block_amax : of_row, to.options);
  const float inverse = 1.0f / scale;
  const int lane = static_cast<int>(threadIdx.x % kRowThreads);
  const int64_t row = held.area.rows.begin + TilePlace().row + lane * kRowStep;
  if (lane < kChunks && row < held.area.rows.end) to.row_scales[row][held.tile] = scale;
  TakeForNew(held.x.x);
  ForFinite(zeros, [&](auto finite) {
    constexpr bool kFinite = decltype(finite)::value;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      float x[kChunk];
      held.x.template Values<kFinite>(i, x);
      const float of_i = __shfl_sync(kAllLanes, inverse, i, kRowThreads);
      const uint2 codes = Encode8<kFinite>(x, [&](int) { return of_i; });
      StoreTileRow({codes.x, codes.y}, to.row_codes, held.area, i);
    }
  });
}

// Of a block.
struct ColumnScratch {
  CodeTile codes;
  float4 amax[kQuantizeWarps][kQuantTile / 4];
  float4 inverse[kQuantTile / 4];
};

// The scales of 128 x 1, written down, and what to multiply with, in shared memory. Returns zeros
// as AddZeros does.
template <typename Held>
__device__ float ScalesOfColumns(const CodesOfTiles& to, HeldTile<Held>& held, float block_amax,
                                 ColumnScratch& scratch) {
  float of_thread[kChunk] = {}, zeros = 0.0f;
  TakeForNew(held.x.x);
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    float x[kChunk];
    held.x.template Values<true>(i, x);
    zeros = AddZeros(zeros, x);
#pragma unroll
    for (int j = 0; j < kChunk; ++j) of_thread[j] = fmaxf(of_thread[j], fabsf(x[j]));
  }
  const bool is_upper = (threadIdx.x & kRowThreads) != 0;  // of the two rows that a warp has
  LargestOfHalf(of_thread, kChunk, kRowThreads, is_upper);
  scratch.amax[threadIdx.x / kWarp][TilePlace().column / 4 + (is_upper ? 1 : 0)] =
      make_float4(of_thread[0], of_thread[1], of_thread[2], of_thread[3]);
  __syncthreads();
  const int column = static_cast<int>(threadIdx.x);
  if (column < kQuantTile) {
    float amax = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kQuantizeWarps; ++warp) {
      amax = fmaxf(amax, reinterpret_cast<const float*>(scratch.amax[warp])[column]);
    }
    const float scale = ScaleOf(block_amax >= 0 ? block_amax : amax, to.options);
    reinterpret_cast<float*>(scratch.inverse)[column] = 1.0f / scale;
    if (column < held.area.width()) {
      to.column_scales[held.scale_row][held.area.columns.begin + column] = scale;
    }
  }
  __syncthreads();
  return zeros;
}

template <typename Held>
__device__ void QuantizeAlongColumns(const CodesOfTiles& to, HeldTile<Held>& held, float block_amax,
                                     ColumnScratch& scratch) {
  const float zeros = ScalesOfColumns(to, held, block_amax, scratch);
  const TilePlace place;
  const float4 low = scratch.inverse[place.column / 4],
               high = scratch.inverse[place.column / 4 + 1];
  const float inverse[kChunk] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  TakeForNew(held.x.x);
  // put(which of the thread's rows, its codes)
  const auto encode = [&](const auto& put) {
    ForFinite(zeros, [&](auto finite) {
      constexpr bool kFinite = decltype(finite)::value;
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        float x[kChunk];
        held.x.template Values<kFinite>(i, x);
        put(i, Encode8<kFinite>(x, [&](int j) { return inverse[j]; }));
        if (!kFinite) __syncwarp();  // one row after the other, which takes fewer registers
      }
    });
  };
  if (!to.is_transposed) {
    encode([&](int i, uint2 codes) {
      StoreTileRow({codes.x, codes.y}, to.column_codes, held.area, i);
    });
    return;
  }
  encode([&](int i, uint2 codes) {
    scratch.codes.PutRow(place.row + i * kRowStep, place.column, Codes8{codes.x, codes.y});
  });
  __syncthreads();
  uint8_t* first = to.column_codes[held.area.columns.begin] + held.scale_row * kQuantTile;
  StoreColumns<uint8_t>(scratch.codes, held.area.width(), kQuantTile,
                        {first, to.column_codes.stride});
}

// Shared memory of a block that quantises. May be used again for the next tile at once.
struct QuantizeShared {
  ColumnScratch columns;
  Range rows;
  float partial[kQuantizeWarps];
};

template <bool kAlongRows, typename Held>
__device__ void QuantizeTile(const CodesOfTiles& to, HeldTile<Held>& held, QuantizeShared& shared) {
  float block_amax = -1.0f;
  if (to.options.square_blocks) {
    float amax = 0.0f;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      float x[kChunk];
      held.x.template Values<true>(i, x);
      amax = fmaxf(amax, LargestOf(x));
    }
    block_amax = BlockReduce<Max>(amax, shared.partial);
  }
  if constexpr (kAlongRows) {
    if (!to.row_codes.is_null()) QuantizeAlongRows(to, held, block_amax);
  }
  if (!to.column_codes.is_null()) QuantizeAlongColumns(to, held, block_amax, shared.columns);
}

}  // namespace sluice::kernels::cuda
