// Element types and their exact conversions. Every conversion rounds to nearest, ties to even, and
// keeps subnormals.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace sluice::kernels {

enum class DType : uint8_t { kF32, kBF16, kI32, kI64, kU8, kF64, kE4M3 };

size_t SizeOf(DType dtype);             // bytes of one element
absl::string_view NameOf(DType dtype);  // "f32", "bf16", "i32", "i64", "u8", "f64", "e4m3"

// The upper half of an IEEE binary32: 1 sign, 8 exponent, 7 fraction bits.
struct BFloat16 {
  uint16_t bits = 0;
  friend bool operator==(BFloat16, BFloat16) = default;
};

inline float ToFloat(BFloat16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

inline BFloat16 ToBFloat16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return {static_cast<uint16_t>((bits >> 16) | 0x40u)};  // quiet NaN
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// E4M3 of OCP OFP8, the "fn" variant: 1 sign, 4 exponent (bias 7), 3 fraction bits; largest 448,
// smallest 2^-9, no infinities, NaN is 0x7f and 0xff.
struct E4M3 {
  uint8_t bits = 0;
  friend bool operator==(E4M3, E4M3) = default;
};
inline constexpr float kMaxE4M3 = 448.0f;

inline float ToFloat(E4M3 x) {
  const uint32_t sign = uint32_t{x.bits & 0x80u} << 24, magnitude = x.bits & 0x7fu;
  if (magnitude == 0x7f) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (magnitude < 8) {
    const float small = static_cast<float>(magnitude) * 0x1p-9f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(small));
  }
  return std::bit_cast<float>(sign | ((magnitude << 20) + (120u << 23)));
}

// Saturates: what is above 448 becomes 448. NaN stays NaN, zero keeps its sign.
inline E4M3 ToE4M3(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), magnitude = bits & 0x7fffffffu;
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  uint32_t code = 0;
  if (magnitude > 0x7f800000u) {
    code = 0x7f;
  } else if (magnitude >= std::bit_cast<uint32_t>(kMaxE4M3)) {
    code = 0x7e;
  } else if (magnitude >= (121u << 23)) {  // 2^-6, the smallest normal number
    code = ((magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20) - (120u << 3);
  } else {  // adding 2^14 rounds to a multiple of 2^-9
    code =
        std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0x1p14f) - (uint32_t{141} << 23);
  }
  return {static_cast<uint8_t>(sign | code)};
}

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType kValue = DType::kF32;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType kValue = DType::kBF16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType kValue = DType::kI32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType kValue = DType::kI64;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType kValue = DType::kU8;
};
template <>
struct DTypeOf<double> {
  static constexpr DType kValue = DType::kF64;
};
template <>
struct DTypeOf<E4M3> {
  static constexpr DType kValue = DType::kE4M3;
};

}  // namespace sluice::kernels
