// Elements of activations in device code: read as float, written with one rounding.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/core/tensor_view.h"

namespace sluice::kernels::cuda {

using bfloat16 = __nv_bfloat16;

// What the host calls T is the same bits as the device's.
template <typename T>
struct HostTypeOf {
  using Type = T;
};
template <>
struct HostTypeOf<bfloat16> {
  using Type = BFloat16;
};

__device__ inline float ToFloat(float x) { return x; }
__device__ inline float ToFloat(bfloat16 x) {
  return __uint_as_float(static_cast<uint32_t>(__bfloat16_as_ushort(x)) << 16);
}

template <typename T>
__device__ T FromFloat(float x);
template <>
__device__ inline float FromFloat<float>(float x) {
  return x;
}
// To nearest even. A NaN keeps its upper bits and becomes quiet, as on the CPU; the instruction
// alone would give one NaN for all.
template <>
__device__ inline bfloat16 FromFloat<bfloat16>(float x) {
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return __ushort_as_bfloat16(static_cast<uint16_t>(bits >> 16 | 0x40u));
  }
  return __float2bfloat16_rn(x);
}

// Neither is a NaN: one comparison.
__device__ inline bool AreNumbers(float a, float b) { return a <= b || a > b; }

// Rows of a tensor: row r begins at data + r * stride.
template <typename T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;
  __device__ T* operator[](int64_t row) const { return data + row * stride; }
  __host__ __device__ bool is_null() const { return data == nullptr; }
};

template <typename T>
Rows<const T> RowsOf(const ConstTensorView& view) {
  return {static_cast<const T*>(view.raw_data()), view.row_stride()};
}
template <typename T>
Rows<T> MutableRowsOf(const TensorView& view) {
  return {static_cast<T*>(view.raw_mutable_data()), view.row_stride()};
}

}  // namespace sluice::kernels::cuda
