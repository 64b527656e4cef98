// The scale of a tile from its largest magnitude: one rule for every backend (docs/fp8.md).
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/core/dtype.h"

namespace sluice::kernels {

inline constexpr float kLeastScale = 0x1p-126f;  // scales are normal numbers

// 2^ceil(log2(scale)) of a normal positive number at most 2^127.
inline float RoundUpToPowerOfTwo(float scale) {
  const uint32_t bits = std::bit_cast<uint32_t>(scale);
  return std::bit_cast<float>((bits + 0x7fffffu) & 0x7f800000u);
}

// amax / 448, in IEEE division; 1 for amax 0; infinity for infinity, whose tile is all NaN then.
inline float ScaleOf(float amax, bool power_of_two, float amax_floor) {
  if (amax < amax_floor) amax = amax_floor;
  if (amax == 0.0f) return 1.0f;
  const float quotient = amax / kMaxE4M3;
  const float scale = quotient < kLeastScale ? kLeastScale : quotient;
  return power_of_two ? RoundUpToPowerOfTwo(scale) : scale;
}

// The byte that stands for a power of two in [2^-126, 2^127], and back (UE8M0: 2^(byte - 127)).
// Infinity is 255.
inline uint8_t ToUe8m0(float scale) {
  return static_cast<uint8_t>(std::bit_cast<uint32_t>(scale) >> 23);
}
inline float FromUe8m0(uint8_t byte) { return std::bit_cast<float>(uint32_t{byte} << 23); }

}  // namespace sluice::kernels
