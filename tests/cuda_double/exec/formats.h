// Narrow floating-point formats, bit by bit. Rounding is to nearest even; the FP8 conversions
// saturate to the largest finite value (PTX ISA 9.7.9.22, .satfinite).
#pragma once

#include <cstdint>

namespace sluice::cuda_double {

float FromE4M3(uint8_t bits);  // 1 sign, 4 exponent (bias 7), 3 fraction; no infinity
float FromE5M2(uint8_t bits);  // 1, 5 (bias 15), 2; IEEE's infinities and NaN
float FromHalf(uint16_t bits);
float FromBFloat16(uint16_t bits);

uint8_t ToE4M3(float x);
uint8_t ToE5M2(float x);
uint16_t ToHalf(float x);
uint16_t ToBFloat16(float x);  // every NaN becomes 0x7fff

}  // namespace sluice::cuda_double
