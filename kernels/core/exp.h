// e^x, sigmoid and silu in FP32, to the bit: every backend computes these on equal inputs. Every
// multiply-add is written out as fused, that is, rounded once; nothing else may be contracted.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/core/host_device.h"

namespace sluice::kernels {

// 2^n e^r with n = round(x / ln 2) and |r| <= ln 2 / 2; polynomial and the two parts of ln 2 from
// S. Moshier's Cephes library (expf). 0 below -103.97, infinity above 88.72, NaN for NaN.
//
// Error below 1.25 units in the last place of a normal result in [2^m, 2^(m + 1)), in units: the
// last addition 0.5; where e^r < 1, the two sums before it and the second reduction step lie in
// [1/4, 1/2) and are off by 2^-26, 0.25 each; where e^r >= 1 the units are twice as large and r's
// error grows by e^r <= 1.42. The rest (polynomial, r^2, p) stays below 0.2. A subnormal result is
// rounded once more.
SLUICE_HOST_DEVICE inline float Exp(float x) {
  x = 89.0f < x ? 89.0f : x;  // a NaN stays
  x = -104.0f > x ? -104.0f : x;
  const float shift = 0x1.8p23f;  // adding it rounds to a whole number
  const float shifted = fmaf(x, 1.44269504088896341f, shift), n = shifted - shift;
  float r = fmaf(n, -0.693359375f, x);
  r = fmaf(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = fmaf(p, r, 1.3981999507e-3f);
  p = fmaf(p, r, 8.3334519073e-3f);
  p = fmaf(p, r, 4.1665795894e-2f);
  p = fmaf(p, r, 1.6666665459e-1f);
  p = fmaf(p, r, 5.0000001201e-1f);
  p = fmaf(p, r * r, r);
  // n again, from the lowest bits of the sum (of a NaN some number, which the products ignore). 2^n
  // in two factors: n may be -150, and the first product is exact.
  const int exponent = __builtin_bit_cast(int32_t, shifted) - __builtin_bit_cast(int32_t, shift);
  const int half = exponent >> 1;
  const auto low = static_cast<uint32_t>(half + 127) << 23;
  const auto high = static_cast<uint32_t>(exponent - half + 127) << 23;
  return (p + 1.0f) * __builtin_bit_cast(float, low) * __builtin_bit_cast(float, high);
}

SLUICE_HOST_DEVICE inline float Sigmoid(float x) { return 1.0f / (1.0f + Exp(0.0f - x)); }
SLUICE_HOST_DEVICE inline float Silu(float x) { return x / (1.0f + Exp(0.0f - x)); }

// Derivative of silu, from s = Sigmoid(x): s (1 + x (1 - s)).
SLUICE_HOST_DEVICE inline float SiluSlope(float x, float s) { return s * fmaf(x, 1.0f - s, 1.0f); }

}  // namespace sluice::kernels
