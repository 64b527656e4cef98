// The FP32 sums of a warp that multiplies 32 x 32 of a tile by mma.sync, as 2 x 4 products of
// 16 x 8 (ptx.cuh): which row and column each of a lane's registers belongs to.
#pragma once

#include "kernels/cuda/launch.cuh"

namespace sluice::kernels::cuda {

struct WarpSums {
  float d[2][4][4] = {};
};

// f(row of the tile, column of the tile, sum); four warps share a tile of 64 x 64.
template <typename F>
__device__ void ForEachSum(const WarpSums& sums, const F& f) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int row = warp / 2 * 32 + lane / 4, column = warp % 2 * 32 + 2 * (lane % 4);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        f(row + 16 * i + 8 * (q / 2), column + 8 * j + q % 2, sums.d[i][j][q]);
      }
    }
  }
}

}  // namespace sluice::kernels::cuda
