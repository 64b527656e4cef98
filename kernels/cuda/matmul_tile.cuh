// One tile of a matrix product, by a block of kTileThreads threads. Both operands go through shared
// memory with K innermost, whatever their strides. A sum is taken along K in ascending order (BF16:
// 16 products an instruction), so an element depends on its row, its column and K alone.
#pragma once

#include <cstdint>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/warp_sums.cuh"

namespace sluice::kernels::cuda {

inline constexpr int kTile = 64;  // rows and columns of a tile
inline constexpr int kTileThreads = 128;

// c[i, j] (+)= sum over k of a[i * a_row + k * a_k] * b[j * b_column + k * b_k], all in elements.
template <typename T, typename Result>
struct Product {
  const T *a, *b;
  Result* c;
  int64_t a_row, a_k, b_column, b_k, c_row;
  int64_t m, n, k;
  bool accumulate;
};

// K of a step, and the padded row of a tile in shared memory (no two rows of a fragment share a
// bank).
template <typename T>
struct TileDepth;
template <>
struct TileDepth<bfloat16> {
  static constexpr int kDepth = 32, kStride = 40;
};
template <>
struct TileDepth<float> {
  static constexpr int kDepth = 16, kStride = 17;
};

// tile[r][k] = from[(first + r) * row + (k0 + k) * along_k], 0 outside. Neighbouring threads take
// neighbouring addresses.
template <typename T>
__device__ void LoadTile(T* tile, const T* from, int64_t row, int64_t along_k, int64_t rows,
                         int64_t depth) {
  constexpr int kDepth = TileDepth<T>::kDepth, kStride = TileDepth<T>::kStride;
  const bool k_is_inner = along_k == 1;
#pragma unroll 4
  for (int i = threadIdx.x; i < kTile * kDepth; i += kTileThreads) {
    const int r = k_is_inner ? i / kDepth : i % kTile, k = k_is_inner ? i % kDepth : i / kTile;
    const bool inside = r < rows && k < depth;
    tile[r * kStride + k] = inside ? from[r * row + k * along_k] : T(0.0f);
  }
}

template <typename Result>
__device__ void StoreElement(Result* c, float sum, bool accumulate) {
  *c = FromFloat<Result>(accumulate ? ToFloat(*c) + sum : sum);
}

__device__ inline uint32_t PairAt(const bfloat16* at) {
  return *reinterpret_cast<const uint32_t*>(at);
}

__device__ inline void MultiplyStep(WarpSums& sums, const bfloat16* a_tile,
                                    const bfloat16* b_tile) {
  constexpr int kStride = TileDepth<bfloat16>::kStride;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int g = lane / 4, t = lane % 4;
  const bfloat16* a_rows = a_tile + (warp / 2 * 32 + g) * kStride + 2 * t;
  const bfloat16* b_rows = b_tile + (warp % 2 * 32 + g) * kStride + 2 * t;
#pragma unroll
  for (int k = 0; k < TileDepth<bfloat16>::kDepth; k += 16) {
    uint32_t a[2][4], b[4][2];
    for (int i = 0; i < 2; ++i) {
      const bfloat16* at = a_rows + i * 16 * kStride + k;
      a[i][0] = PairAt(at), a[i][1] = PairAt(at + 8 * kStride);
      a[i][2] = PairAt(at + 8), a[i][3] = PairAt(at + 8 * kStride + 8);
    }
    for (int j = 0; j < 4; ++j) {
      const bfloat16* at = b_rows + j * 8 * kStride + k;
      b[j][0] = PairAt(at), b[j][1] = PairAt(at + 8);
    }
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 4; ++j) MultiplyAccumulate(sums.d[i][j], a[i], b[j]);
    }
  }
}

// A thread's part of a tile without tensor instructions: 4 rows and 8 columns, 16 and 8 apart.
struct ThreadSums {
  float d[4][8] = {};
};

__device__ inline void MultiplyStep(ThreadSums& sums, const float* a_tile, const float* b_tile) {
  constexpr int kStride = TileDepth<float>::kStride;
  const int row = threadIdx.x / 8, column = threadIdx.x % 8;
#pragma unroll 4
  for (int k = 0; k < TileDepth<float>::kDepth; ++k) {
    float a[4], b[8];
    for (int i = 0; i < 4; ++i) a[i] = a_tile[(row + 16 * i) * kStride + k];
    for (int j = 0; j < 8; ++j) b[j] = b_tile[(column + 8 * j) * kStride + k];
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 8; ++j) sums.d[i][j] = __fmaf_rn(a[i], b[j], sums.d[i][j]);
    }
  }
}

template <typename F>
__device__ void ForEachSum(const ThreadSums& sums, const F& f) {
  const int row = threadIdx.x / 8, column = threadIdx.x % 8;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) f(row + 16 * i, column + 8 * j, sums.d[i][j]);
  }
}

template <typename T>
struct SumsOf {
  using Type = ThreadSums;
};
template <>
struct SumsOf<bfloat16> {
  using Type = WarpSums;
};

// Rows [row, row + kTile) and columns [column, column + kTile) of the product, as far as there are
// any.
template <typename T, typename Result>
__device__ void ComputeTile(const Product<T, Result>& p, int64_t row, int64_t column) {
  constexpr int kDepth = TileDepth<T>::kDepth, kStride = TileDepth<T>::kStride;
  __shared__ __align__(16) T a_tile[kTile * kStride];
  __shared__ __align__(16) T b_tile[kTile * kStride];
  typename SumsOf<T>::Type sums;
  for (int64_t k = 0; k < p.k; k += kDepth) {
    LoadTile(a_tile, p.a + row * p.a_row + k * p.a_k, p.a_row, p.a_k, p.m - row, p.k - k);
    LoadTile(b_tile, p.b + column * p.b_column + k * p.b_k, p.b_column, p.b_k, p.n - column,
             p.k - k);
    __syncthreads();
    MultiplyStep(sums, a_tile, b_tile);
    __syncthreads();
  }
  ForEachSum(sums, [&](int i, int j, float sum) {
    if (row + i >= p.m || column + j >= p.n) return;
    StoreElement(p.c + (row + i) * p.c_row + column + j, sum, p.accumulate);
  });
}

}  // namespace sluice::kernels::cuda
