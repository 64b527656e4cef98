#include "tests/cuda_double/exec/formats.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace sluice::cuda_double {
namespace {

// A binary format with a sign, `exponent_bits`, `fraction_bits` and IEEE's subnormals.
struct Format {
  int exponent_bits, fraction_bits;
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
};
constexpr Format kE4M3 = {4, 3}, kE5M2 = {5, 2}, kHalf = {5, 10};

// The value of a code that is neither infinite nor a NaN, without its sign.
double Magnitude(unsigned code, const Format& format) {
  const auto fraction = static_cast<double>(code & ((1u << format.fraction_bits) - 1));
  const int exponent = static_cast<int>(code >> format.fraction_bits);
  if (exponent == 0) return std::ldexp(fraction, 1 - format.bias() - format.fraction_bits);
  return std::ldexp(fraction + static_cast<double>(1u << format.fraction_bits),
                    exponent - format.bias() - format.fraction_bits);
}

// The code of the nearest value to x >= 0, as if exponents went on for ever.
unsigned Round(double x, const Format& format) {
  const int lowest = 1 - format.bias();  // exponent of the smallest normal value
  int exponent = x == 0 ? lowest : std::ilogb(x);
  if (exponent < lowest) exponent = lowest;
  const double scaled = std::ldexp(x, format.fraction_bits - exponent);
  const auto steps = static_cast<unsigned>(std::nearbyint(scaled));
  // A carry into the next exponent is what adding the integers gives.
  return (static_cast<unsigned>(exponent - lowest) << format.fraction_bits) + steps;
}

unsigned SignOf(float x, unsigned sign_bit) { return std::signbit(x) ? sign_bit : 0; }

}  // namespace

float FromE4M3(uint8_t bits) {
  const unsigned code = bits & 0x7fu;
  const double magnitude =
      code == 0x7f ? std::numeric_limits<double>::quiet_NaN() : Magnitude(code, kE4M3);
  return static_cast<float>((bits & 0x80) != 0 ? -magnitude : magnitude);
}

float FromE5M2(uint8_t bits) { return FromHalf(static_cast<uint16_t>(bits << 8)); }

float FromHalf(uint16_t bits) {
  const unsigned code = bits & 0x7fffu;
  double magnitude = 0;
  if (code > 0x7c00) {
    magnitude = std::numeric_limits<double>::quiet_NaN();
  } else if (code == 0x7c00) {
    magnitude = std::numeric_limits<double>::infinity();
  } else {
    magnitude = Magnitude(code, kHalf);
  }
  return static_cast<float>((bits & 0x8000) != 0 ? -magnitude : magnitude);
}

float FromBFloat16(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

uint8_t ToE4M3(float x) {
  if (std::isnan(x)) return 0x7f;
  constexpr unsigned kLargest = 0x7e;
  const double magnitude = std::fabs(double{x});
  const unsigned code = magnitude >= 512 ? kLargest : Round(magnitude, kE4M3);
  return static_cast<uint8_t>((code > kLargest ? kLargest : code) | SignOf(x, 0x80));
}

uint8_t ToE5M2(float x) {
  if (std::isnan(x)) return 0x7f;
  constexpr unsigned kLargest = 0x7b;
  const double magnitude = std::fabs(double{x});
  const unsigned code = magnitude >= 65536 ? kLargest : Round(magnitude, kE5M2);
  return static_cast<uint8_t>((code > kLargest ? kLargest : code) | SignOf(x, 0x80));
}

uint16_t ToHalf(float x) {
  if (std::isnan(x)) return 0x7fff;
  constexpr unsigned kInfinity = 0x7c00;
  const double magnitude = std::fabs(double{x});
  const unsigned code = magnitude >= 65536 ? kInfinity : Round(magnitude, kHalf);
  return static_cast<uint16_t>((code > kInfinity ? kInfinity : code) | SignOf(x, 0x8000));
}

uint16_t ToBFloat16(float x) {
  if (std::isnan(x)) return 0x7fff;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace sluice::cuda_double
