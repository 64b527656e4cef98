// SwiGLU and its gradient of neighbouring elements, to the bit as kernels/ops/swiglu.h says.
#pragma once

#include "kernels/core/exp.h"
#include "kernels/cuda/chunk.cuh"

namespace sluice::kernels::cuda {

template <typename T, int kCount>
__device__ Chunk<T, kCount> SwigluOf(const Chunk<T, kCount>& gate, const Chunk<T, kCount>& up) {
  float y[kCount];
#pragma unroll
  for (int j = 0; j < kCount; ++j) y[j] = Silu(gate[j]) * up[j];
  return FromFloats<T>(y);
}

// Gate and up become their gradients.
template <typename T, int kCount>
__device__ void TakeSwigluGradient(const Chunk<T, kCount>& dy, Chunk<T, kCount>& gate,
                                   Chunk<T, kCount>& up) {
  float dgate[kCount], dup[kCount];
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const float g = gate[j], u = up[j], d = dy[j];
    const float sigmoid = Sigmoid(g);
    dgate[j] = d * u * SiluSlope(g, sigmoid);
    dup[j] = d * (g * sigmoid);
  }
  gate = FromFloats<T>(dgate);
  up = FromFloats<T>(dup);
}

}  // namespace sluice::kernels::cuda
