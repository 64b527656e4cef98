// The double's narrow formats against the toolkit's own host conversions, over dense sweeps.
#include "tests/cuda_double/exec/formats.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

namespace sluice::cuda_double {
namespace {

float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// A million floats, and those around every boundary: all signs and exponents, fractions at and
// beside each tie of 2, 3, 7 and 10 bits.
template <typename F>
void ForManyFloats(const F& f) {
  for (uint64_t bits = 0; bits < (1ull << 32); bits += 4099)
    f(FloatOf(static_cast<uint32_t>(bits)));
  for (uint32_t exponent = 0; exponent < 512; ++exponent) {
    for (int kept : {1, 2, 3, 4, 7, 8, 10, 11}) {
      const uint32_t tie = 1u << (22 - kept);
      for (uint32_t above = 0; above < 4; ++above) {
        for (int beside = -1; beside <= 1; ++beside) {
          const uint32_t fraction =
              (above * 2 * tie + tie + static_cast<uint32_t>(beside)) & 0x7fffff;
          f(FloatOf(exponent << 23 | fraction));
        }
      }
    }
  }
}

TEST(Formats, NarrowingAgreesWithTheToolkit) {
  ForManyFloats([](float x) {
    if (std::isnan(x)) return;  // the host functions keep other bits of a NaN than the instruction
    ASSERT_EQ(ToE4M3(x), __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3)) << x;
    ASSERT_EQ(ToE5M2(x), __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E5M2)) << x;
    ASSERT_EQ(ToHalf(x), __half_as_ushort(__float2half_rn(x))) << x;
    ASSERT_EQ(ToBFloat16(x), __bfloat16_as_ushort(__float2bfloat16_rn(x))) << x;
  });
}

TEST(Formats, WideningAgreesWithTheToolkit) {
  const auto same = [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); };
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    ASSERT_TRUE(same(FromHalf(half), __half2float(__ushort_as_half(half)))) << bits;
    ASSERT_TRUE(same(FromBFloat16(half), __bfloat162float(__ushort_as_bfloat16(half)))) << bits;
    if (bits > 255) continue;
    const auto byte = static_cast<uint8_t>(bits);
    const auto toolkit = [&](__nv_fp8_interpretation_t format) {
      return __half2float(__half(__nv_cvt_fp8_to_halfraw(byte, format)));
    };
    ASSERT_TRUE(same(FromE4M3(byte), toolkit(__NV_E4M3))) << bits;
    ASSERT_TRUE(same(FromE5M2(byte), toolkit(__NV_E5M2))) << bits;
  }
}

}  // namespace
}  // namespace sluice::cuda_double
