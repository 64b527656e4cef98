// One tile of a product of E4M3 codes by mma.sync. Codes go through shared memory with K innermost,
// 128 of K or fewer at a time; their FP32 sum is multiplied by both scales and added to the total
// (kernels/ops/fp8_matmul.h). An element depends on its row, its column and K alone.
#pragma once

#include <cstdint>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/warp_sums.cuh"
#include "kernels/ops/block_quantize.h"

namespace sluice::kernels::cuda {

inline constexpr int kFp8Tile = 64;  // rows and columns of a tile
inline constexpr int kFp8Threads = 128;
inline constexpr int kFp8Depth = static_cast<int>(kQuantTile);
// Bytes from row to row in shared memory: an odd multiple of 16, so that eight rows that are read
// together lie in different banks.
inline constexpr int kFp8Stride = kFp8Depth + 16;

// One operand. Code (i, k), i its row of a or column of b, lies at codes + i * row + k * along_k.
struct Fp8Operand {
  const uint8_t* codes;
  int64_t row, along_k;
  // Of (i, k tile t): scales[ScaleIndex(i) * scale_row + t * scale_tile].
  const float* scales;
  int64_t scale_row, scale_tile;
  // i itself, or the tile of 128 that it lies in, or that of `bounds` (ascending from 0).
  bool has_scale_per_row;
  const int32_t* bounds;

  __device__ int64_t ScaleIndex(int64_t i) const {
    if (has_scale_per_row) return i;
    if (bounds == nullptr) return i / kQuantTile;
    int64_t tile = 0;
    while (bounds[tile + 1] <= i) ++tile;
    return tile;
  }
};

// c[i, j] (+)= sum over k tiles t of (scale of a * scale of b) * (sum over k in t of a * b).
template <typename Result>
struct Fp8Product {
  Fp8Operand a, b;
  Result* c;
  int64_t c_row;
  int64_t m, n, k;
  const int32_t* k_bounds;  // of the k tiles; null: every 128
  int64_t k_tiles;
  bool accumulate;
};

// tile[r][k] = code (first + r, k0 + k), 0 outside; kFp8Tile rows of kFp8Depth.
__device__ inline void LoadCodes(uint8_t* tile, const Fp8Operand& from, int64_t first, int64_t k0,
                                 int64_t rows, int depth) {
  const uint8_t* base = from.codes + first * from.row + k0 * from.along_k;
  if (from.along_k != 1) {  // neighbouring threads take neighbouring rows
    for (int i = threadIdx.x; i < kFp8Tile * kFp8Depth; i += kFp8Threads) {
      const int r = i % kFp8Tile, k = i / kFp8Tile;
      const bool is_inside = r < rows && k < depth;
      tile[r * kFp8Stride + k] = is_inside ? base[r * from.row + k * from.along_k] : 0;
    }
    return;
  }
  const bool is_aligned = ((reinterpret_cast<uint64_t>(base) | from.row) & 15) == 0;
#pragma unroll 4
  for (int i = threadIdx.x; i < kFp8Tile * kFp8Depth / 16; i += kFp8Threads) {
    const int r = i / (kFp8Depth / 16), k = i % (kFp8Depth / 16) * 16;
    const uint8_t* at = base + r * from.row + k;
    uint4 x = make_uint4(0, 0, 0, 0);
    if (r < rows && is_aligned && k + 16 <= depth) {
      x = *reinterpret_cast<const uint4*>(at);
    } else if (r < rows) {
      uint32_t words[4] = {};
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        const uint32_t code = k + j < depth ? at[j] : 0u;
        words[j / 4] |= code << (8 * (j % 4));
      }
      x = make_uint4(words[0], words[1], words[2], words[3]);
    }
    *reinterpret_cast<uint4*>(tile + r * kFp8Stride + k) = x;
  }
}

// The warp's sums over a tile's depth; `a` and `b` begin at its rows and columns.
__device__ inline void MultiplyCodes(WarpSums& sums, const uint8_t* a, const uint8_t* b,
                                     int depth) {
  const int lane = threadIdx.x % kWarp;
  a += lane % 16 * kFp8Stride + lane / 16 * 16;
  b += (lane / 16 * 8 + lane % 8) * kFp8Stride + lane / 8 % 2 * 16;
  for (int k = 0; k < depth; k += 32) {
    uint32_t a_part[2][4], b_part[2][4];  // b: two columns of products a load
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      LoadMatrices(a_part[i], a + i * 16 * kFp8Stride + k);
      LoadMatrices(b_part[i], b + i * 16 * kFp8Stride + k);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t pair[2] = {b_part[j / 2][j % 2 * 2], b_part[j / 2][j % 2 * 2 + 1]};
        MultiplyAccumulateE4M3(sums.d[i][j], a_part[i], pair);
      }
    }
  }
}

// total += (scale of a * scale of b) * sums, each element with its own.
__device__ inline void Promote(WarpSums& total, const WarpSums& sums, const float* scales) {
  int at = 0;
  ForEachSum(sums, [&](int row, int column, float sum) {
    float& t = total.d[at / 16][at / 4 % 4][at % 4];
    t = __fmaf_rn(sum, scales[row] * scales[kFp8Tile + column], t);
    ++at;
  });
}

// Rows [row, row + kFp8Tile) and columns [column, column + kFp8Tile) of the product, as far as
// there are any.
template <typename Result>
__device__ void ComputeFp8Tile(const Fp8Product<Result>& p, int64_t row, int64_t column) {
  __shared__ __align__(16) uint8_t a_tile[kFp8Tile * kFp8Stride];
  __shared__ __align__(16) uint8_t b_tile[kFp8Tile * kFp8Stride];
  __shared__ float scales[2 * kFp8Tile];  // of the rows, then of the columns
  const int warp = threadIdx.x / kWarp;
  // Each thread brings one scale a k tile.
  const bool is_row = threadIdx.x < kFp8Tile;
  const int64_t mine = is_row ? row + threadIdx.x : column + threadIdx.x - kFp8Tile;
  const bool has_scale = mine < (is_row ? p.m : p.n);
  const float* my_scale = is_row ? p.a.scales : p.b.scales;
  const int64_t next_scale = is_row ? p.a.scale_tile : p.b.scale_tile;
  if (has_scale) {
    my_scale +=
        is_row ? p.a.ScaleIndex(mine) * p.a.scale_row : p.b.ScaleIndex(mine) * p.b.scale_row;
  }
  WarpSums total;
  for (int64_t t = 0; t < p.k_tiles; ++t) {
    const int64_t begin = p.k_bounds == nullptr ? t * kQuantTile : p.k_bounds[t];
    const int64_t end = p.k_bounds == nullptr ? min(begin + kQuantTile, p.k) : p.k_bounds[t + 1];
    const int depth = static_cast<int>(end - begin);
    LoadCodes(a_tile, p.a, row, begin, p.m - row, depth);
    LoadCodes(b_tile, p.b, column, begin, p.n - column, depth);
    scales[threadIdx.x] = has_scale ? my_scale[t * next_scale] : 0.0f;
    __syncthreads();
    WarpSums sums;
    MultiplyCodes(sums, a_tile + warp / 2 * 32 * kFp8Stride, b_tile + warp % 2 * 32 * kFp8Stride,
                  depth);
    Promote(total, sums, scales);
    __syncthreads();  // before the next codes take their place
  }
  ForEachSum(total, [&](int i, int j, float sum) {
    if (row + i >= p.m || column + j >= p.n) return;
    Result* c = p.c + (row + i) * p.c_row + column + j;
    *c = FromFloat<Result>(p.accumulate ? ToFloat(*c) + sum : sum);
  });
}

}  // namespace sluice::kernels::cuda
