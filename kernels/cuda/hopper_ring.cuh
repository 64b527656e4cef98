// What the kernels of Hopper's tensor cores share: a warpgroup's size, the ring of stages between
// the threads that copy and those that multiply, and hold on registers.
#pragma once

#include <cstdint>

#include "kernels/cuda/hopper_ptx.cuh"

namespace sluice::kernels::cuda {

inline constexpr int kWarpgroup = 128;  // threads; the first of a block copies

// Where in the ring of stages a warp is.
struct Ring {
  int num_stages, stage = 0;
  uint32_t phase = 0;
  __device__ void Advance() {
    if (++stage == num_stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// The value that all lanes of the warp have, so that the compiler knows it: it then keeps what
// follows from it, such as wgmma's descriptors, in uniform registers.
__device__ inline int Uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }

// The compiler may not move these registers' reads and writes to the other side of this point.
template <int kCount>
__device__ void HoldRegisters(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(values[i])::"memory");
}

// Zeros in place of lines [first, end) of 128 bytes, by the `threads` that multiply. The tensor
// cores see them after FenceForTensorCores and a barrier.
__device__ inline void ClearLines(uint8_t* tile, int first, int end, int threads) {
  constexpr int kWordsOfLine = 128 / 16;
  for (int i = first * kWordsOfLine + threadIdx.x - kWarpgroup; i < end * kWordsOfLine;
       i += threads) {
    reinterpret_cast<uint4*>(tile)[i] = make_uint4(0, 0, 0, 0);
  }
}

}  // namespace sluice::kernels::cuda
