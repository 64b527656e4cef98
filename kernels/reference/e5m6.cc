#include "kernels/reference/e5m6.h"

#include <algorithm>
#include <cmath>

#include "kernels/reference/access.h"

namespace sluice::kernels::reference {
namespace {

// The twelve bits of a byte row, pair by pair.
uint32_t CodeAt(const uint8_t* row, int64_t i) {
  const uint8_t* pair = row + i / 2 * 3;
  return i % 2 == 0 ? pair[0] | (pair[1] & 15u) << 8 : pair[1] >> 4 | uint32_t{pair[2]} << 4;
}

void SetCodeAt(uint8_t* row, int64_t i, uint32_t code) {
  uint8_t* pair = row + i / 2 * 3;
  if (i % 2 == 0) {
    pair[0] = static_cast<uint8_t>(code & 255u);
    pair[1] = static_cast<uint8_t>(pair[1] | code >> 8);
  } else {
    pair[1] = static_cast<uint8_t>(pair[1] | (code & 15u) << 4);
    pair[2] = static_cast<uint8_t>(code >> 4);
  }
}

double ValueOf(uint32_t code) {
  const int exponent = static_cast<int>(code >> 6 & 31u), fraction = static_cast<int>(code & 63u);
  const double sign = (code & 0x800u) != 0 ? -1 : 1;
  if (exponent == 31) return std::nan("");
  return sign *
         (exponent == 0 ? std::ldexp(fraction, -20) : std::ldexp(64 + fraction, exponent - 21));
}

// Magnitudes ascend with their codes, so the nearest is one of two neighbours.
uint32_t NearestCode(double x) {
  const uint32_t sign = std::signbit(x) ? 0x800u : 0;
  if (!std::isfinite(x)) return sign | 0x7e0u;
  const double magnitude = std::abs(x);
  uint32_t low = 0, high = 0x7bf;  // 65024
  if (magnitude >= ValueOf(high)) return sign | high;
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    (ValueOf(middle) <= magnitude ? low : high) = middle;
  }
  const double below = magnitude - ValueOf(low), above = ValueOf(high) - magnitude;
  if (below == above) return sign | (low % 2 == 0 ? low : high);
  return sign | (below < above ? low : high);
}

// The exponent of the scale of a tile whose largest magnitude is `amax`.
int ScaleExponent(double amax) {
  if (amax == 0) return 0;
  int exponent = -126;
  while (std::ldexp(65024.0, exponent) < amax) ++exponent;
  return exponent;
}

}  // namespace

void PackE5m6Rows(const E5m6RowsArgs& args) {
  const int64_t width = args.x.extent(1);
  for (int64_t r = 0; r < args.x.extent(0); ++r) {
    uint8_t* row = args.packed.mutable_data<uint8_t>() + r * args.packed.row_stride();
    std::fill_n(row, args.packed.extent(1), uint8_t{0});
    for (int64_t c = 0; c < width; ++c) {
      const int64_t begin = c / kE5m6Tile * kE5m6Tile, end = std::min(begin + kE5m6Tile, width);
      double amax = 0;
      for (int64_t i = begin; i < end; ++i) amax = std::fmax(amax, std::abs(Get(args.x, r, i)));
      const bool overflows = std::isinf(amax);
      const int exponent = overflows ? 128 : ScaleExponent(amax);
      row[width / 2 * 3 + c / kE5m6Tile] = static_cast<uint8_t>(exponent + 127);
      const double x = Get(args.x, r, c);
      const double scaled = overflows && std::isfinite(x) ? x * 0.0 : std::ldexp(x, -exponent);
      SetCodeAt(row, c, NearestCode(scaled));
    }
  }
}

void UnpackE5m6Rows(const E5m6RowsArgs& args) {
  const int64_t width = args.x.extent(1);
  for (int64_t r = 0; r < args.x.extent(0); ++r) {
    const uint8_t* row = args.packed.data<uint8_t>() + r * args.packed.row_stride();
    for (int64_t c = 0; c < width; ++c) {
      const int scale = row[width / 2 * 3 + c / kE5m6Tile];
      const double value = ValueOf(CodeAt(row, c));
      Set(args.x, scale == 255 ? std::nan("") : std::ldexp(value, scale - 127), r, c);
    }
  }
}

}  // namespace sluice::kernels::reference
