// Sums over the lanes of a warp and the threads of a block, in one fixed order.
#pragma once

#include <cstdint>

#include "kernels/cuda/launch.cuh"

namespace sluice::kernels::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

struct Sum {
  static constexpr float kNeutral = 0.0f;
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Max {  // a NaN loses
  static constexpr float kNeutral = -__builtin_huge_valf();
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// The result in every lane.
template <typename Op>
__device__ float WarpReduce(float x, Op op = {}) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    x = op(x, __shfl_xor_sync(kAllLanes, x, offset));
  }
  return x;
}

// The result in every thread of a block of one dimension and whole warps. `partial` holds a float a
// warp; it may be used again at once.
template <typename Op>
__device__ float BlockReduce(float x, float* partial, Op op = {}) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  x = WarpReduce(x, op);
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  const int num_warps = static_cast<int>(blockDim.x) / kWarp;
  x = WarpReduce(lane < num_warps ? partial[lane] : Op::kNeutral, op);
  __syncthreads();
  return x;
}

}  // namespace sluice::kernels::cuda
