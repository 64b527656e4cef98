// Extents that break loops: nothing, one, primes, one off a vector, a block or a tile.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace sluice::testing {

struct RowsAndWidth {
  int64_t rows = 0, width = 0;
};

inline std::vector<RowsAndWidth> UglyMatrices() {
  return {{0, 5},   {1, 1},   {1, 7},    {2, 15},   {3, 16},   {5, 17}, {7, 31},
          {4, 32},  {63, 33}, {64, 48},  {65, 63},  {129, 64}, {2, 65}, {1, 127},
          {3, 255}, {2, 256}, {130, 96}, {1, 1023}, {37, 513}};
}

// Elements between rows: rows of a multiple of eight keep lying at multiples of 16 bytes, where a
// GPU reads that much at once; others do not.
inline int64_t PaddingOf(int64_t width, int64_t otherwise = 3) {
  return width % 8 == 0 ? 8 : otherwise;
}

inline std::vector<int64_t> UglyLengths() {
  return {0, 1, 2, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 257, 4095, 4096, 4097, 20011};
}

}  // namespace sluice::testing
