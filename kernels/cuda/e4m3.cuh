// Numbers, E4M3 codes and scales, to the bit as docs/fp8.md says.
#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/ops/block_quantize.h"

namespace sluice::kernels::cuda {

// amax / 448 in IEEE division, at least 2^-126, 1 for amax 0; up to a power of two if asked for.
__device__ inline float ScaleOf(float amax, const QuantizeOptions& options) {
  amax = fmaxf(amax, options.amax_floor);
  if (amax == 0.0f) return 1.0f;
  const float scale = fmaxf(amax / kMaxE4M3, 0x1p-126f);
  if (options.format == ScaleFormat::kF32) return scale;
  return __uint_as_float((__float_as_uint(scale) + 0x7fffffu) & 0x7f800000u);
}

// A NaN keeps its sign. Infinity times an inverse of 0 has the sign that the CPU's multiplication
// gives.
__device__ inline uint8_t Encode(float x, float inverse) {
  const float product = x * inverse;
  if (isnan(product)) return isinf(x) ? 0xff : 0x7f | (__float_as_uint(x) >> 24 & 0x80u);
  return __nv_cvt_float_to_fp8(product, __NV_SATFINITE, __NV_E4M3);
}

__device__ inline float Decode(uint8_t code) {
  const uint32_t sign = (code & 0x80u) << 24, magnitude = code & 0x7fu;
  if (magnitude == 0x7f) return __uint_as_float(sign | 0x7fc00000u);
  if (magnitude < 8) {
    return __uint_as_float(sign | __float_as_uint(static_cast<float>(magnitude) * 0x1p-9f));
  }
  return __uint_as_float(sign | ((magnitude << 20) + (120u << 23)));
}

// Eight at a time: the first code in the lowest byte. `inverse(i)` belongs to element i. kFinite:
// so are all of x, and no product is a NaN.
template <bool kFinite, typename Inverse>
__device__ uint2 Encode8(const float (&x)[8], const Inverse& inverse) {
  uint32_t words[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    const float2 product = make_float2(x[i] * inverse(i), x[i + 1] * inverse(i + 1));
    const uint32_t two =
        kFinite ? uint32_t{__nv_cvt_float2_to_fp8x2(product, __NV_SATFINITE, __NV_E4M3)}
                : Encode(x[i], inverse(i)) | uint32_t{Encode(x[i + 1], inverse(i + 1))} << 8;
    words[i / 4] |= two << (8 * (i % 4));
  }
  return make_uint2(words[0], words[1]);
}

// kFinite: a NaN may get another sign.
template <bool kFinite>
__device__ void Decode4(uint32_t codes, float scale, float* to) {
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const auto two = static_cast<__nv_fp8x2_storage_t>(codes >> (8 * i));
    const __half2 halves = __half2(__nv_cvt_fp8x2_to_halfraw2(two, __NV_E4M3));
    const float2 pair = __half22float2(halves);
    to[i] = pair.x * scale;
    to[i + 1] = pair.y * scale;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t code = codes >> (8 * i);
    if (!kFinite && (code & 0x7f) == 0x7f) {
      to[i] = __uint_as_float((code & 0x80) << 24 | 0x7fc00000u);
    }
  }
}

}  // namespace sluice::kernels::cuda
