// Scales of FP8 products: c = sum over steps of K of a's scale times b's scale times the tensor
// cores' sum of 128 products.
#pragma once

#include <cstdint>

#include "kernels/cuda/hopper_tiles.cuh"

namespace sluice::kernels::cuda {

inline constexpr int kScaleBlock = 128;  // columns of c that share a scale of b (kFp8Blocks)

// Where they lie (kFp8Blocks): HopperMatmulArgs.
struct BlockScalePlaces {
  const float *a = nullptr, *b = nullptr;
  int64_t b_group = 0;  // from b[e]'s to b[e + 1]'s
  int64_t a_row = 0, a_step = 0;
};

// Scales of a thread's rows `row` and `row + 8` for a step, times those of b: one pair for every 64
// columns of a tile, whose first column is a multiple of 64.
template <int kBlockN>
struct ScalePairs {
  static constexpr int kCount = kBlockN / 64;
  float upper[kCount], lower[kCount];
};

// kFp8Blocks: reads the scales of one step after the other.
template <int kBlockN>
class BlockScales {
 public:
  __device__ void Begin(const BlockScalePlaces& places, const TileGrid& grid, const Tile& tile,
                        int row) {
    const int last = grid.m - 1;  // rows past it are not stored
    upper_at_ = places.a + min(tile.row + row, last) * places.a_row;
    lower_at_ = places.a + min(tile.row + row + 8, last) * places.a_row;
    const int blocks = (grid.n + kScaleBlock - 1) / kScaleBlock, block = tile.column / kScaleBlock;
    left_at_ = places.b + tile.group * places.b_group +
               static_cast<int64_t>(block) * grid.num_steps;
    to_right_ = block + 1 < blocks ? grid.num_steps : 0;
    splits_early_ = tile.column % kScaleBlock != 0;
    Read();
  }
  __device__ void Advance(const BlockScalePlaces& places) {
    upper_at_ += places.a_step;
    lower_at_ += places.a_step;
    ++left_at_;
    Read();
  }
  __device__ ScalePairs<kBlockN> Pairs() const {
    ScalePairs<kBlockN> pairs;
#pragma unroll
    for (int i = 0; i < pairs.kCount; ++i) {
      // 192 columns lie in two blocks, of 128 and 64 columns or the other way round.
      float of_b = i < 2 ? left_ : right_;
      if (kBlockN == 192 && i == 1 && splits_early_) of_b = right_;
      pairs.upper[i] = upper_ * of_b;
      pairs.lower[i] = lower_ * of_b;
    }
    return pairs;
  }

 private:
  __device__ void Read() {
    upper_ = *upper_at_;
    lower_ = *lower_at_;
    left_ = *left_at_;
    if constexpr (kBlockN > kScaleBlock) right_ = left_at_[to_right_];
  }

  const float *upper_at_, *lower_at_, *left_at_;
  int to_right_ = 0;
  bool splits_early_ = false;
  float upper_ = 0, lower_ = 0, left_ = 0, right_ = 0;
};

// Columns from 64 kFirst on of a tile: adds a step's products, scaled.
template <int kFirst, int kBlockN, int kCount>
__device__ void AddScaled(float (&sum)[kCount], const float (&product)[kCount],
                          const ScalePairs<kBlockN>& scales) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int of = kFirst + i / 32;
    sum[i] = fmaf(i / 2 % 2 == 0 ? scales.upper[of] : scales.lower[of], product[i], sum[i]);
  }
}

// kFp8Columns: the scales lie in shared memory, one for each row and column.
template <int kCount>
__device__ void AddScaledColumns(float (&sum)[kCount], const float (&product)[kCount], float upper,
                                 float lower, const float* of_columns) {
#pragma unroll
  for (int j = 0; j < kCount / 4; ++j) {
    const float* scales = of_columns + 8 * j + 2 * (threadIdx.x % 4);
    const float left = scales[0], right = scales[1];
    sum[4 * j] = fmaf(upper * left, product[4 * j], sum[4 * j]);
    sum[4 * j + 1] = fmaf(upper * right, product[4 * j + 1], sum[4 * j + 1]);
    sum[4 * j + 2] = fmaf(lower * left, product[4 * j + 2], sum[4 * j + 2]);
    sum[4 * j + 3] = fmaf(lower * right, product[4 * j + 3], sum[4 * j + 3]);
  }
}

}  // namespace sluice::kernels::cuda
