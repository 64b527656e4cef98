// E5M6: 1 sign, 5 exponent (bias 15) and 6 fraction bits, the upper 12 bits of an IEEE binary16;
// largest 65024, smallest 2^-20. Exponent 31 is infinity and NaN. DeepSeek-V3 keeps the input of
// o_proj so (report, arXiv 2412.19437, section 3.3.3).
#pragma once

#include <cstdint>

#include "kernels/core/host_device.h"

namespace sluice::kernels {

inline constexpr float kMaxE5M6 = 65024.0f;  // (2 - 2^-6) 2^15

// To nearest, ties to the even code; what would round above 65024 becomes 65024. Infinity and
// NaN become 0x7e0. Zero and NaN keep their sign.
SLUICE_HOST_DEVICE inline uint32_t ToE5M6(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x), magnitude = bits & 0x7fffffffu;
  const uint32_t sign = bits >> 20 & 0x800u;
  if (magnitude >= 0x7f800000u) return sign | 0x7e0u;
  if (magnitude < (113u << 23)) {  // below 2^-14: a whole number of 2^-20
    const float shifted = __builtin_bit_cast(float, magnitude) + 8.0f;  // whose last place that is
    return sign | (__builtin_bit_cast(uint32_t, shifted) - (130u << 23));
  }
  const uint32_t odd = magnitude >> 17 & 1u;
  const uint32_t rounded = (magnitude + 0xffffu + odd) >> 17;
  const uint32_t code = rounded - (112u << 6);
  return sign | (code > 0x7bfu ? 0x7bfu : code);
}

// The code of x * inverse. The sign of a NaN that a multiplication makes differs between machines:
// what is not finite is not multiplied.
SLUICE_HOST_DEVICE inline uint32_t ToE5M6(float x, float inverse) {
  const bool is_finite = (__builtin_bit_cast(uint32_t, x) & 0x7fffffffu) < 0x7f800000u;
  return ToE5M6(is_finite ? x * inverse : x);
}

SLUICE_HOST_DEVICE inline float FromE5M6(uint32_t code) {
  const uint32_t sign = (code & 0x800u) << 20, magnitude = code & 0x7ffu;
  if (magnitude < 0x40u) {
    const float small = static_cast<float>(magnitude) * 0x1p-20f;
    return __builtin_bit_cast(float, sign | __builtin_bit_cast(uint32_t, small));
  }
  const uint32_t exponent = magnitude >= 0x7c0u ? 224u << 23 : 112u << 23;
  return __builtin_bit_cast(float, sign | ((magnitude << 17) + exponent));
}

}  // namespace sluice::kernels
