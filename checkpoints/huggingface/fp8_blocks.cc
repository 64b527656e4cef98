#include "checkpoints/huggingface/fp8_blocks.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/core/check.h"
#include "kernels/core/dtype.h"

namespace sluice::checkpoints {

void DecodeFp8(std::span<const uint8_t> codes, int64_t begin, int64_t columns,
               std::span<const float> scales, float* out) {
  std::array<float, 256> values;
  for (int code = 0; code < 256; ++code) {
    values[code] = kernels::ToFloat(kernels::E4M3{static_cast<uint8_t>(code)});
  }
  const int64_t across = NumBlocks(columns), count = static_cast<int64_t>(codes.size());
  int64_t row = begin / columns, column = begin % columns;
  for (int64_t i = 0; i < count;) {
    // To the end of the block or of the row.
    const int64_t block = column / kFp8Block;
    const int64_t stop = std::min({(block + 1) * kFp8Block, columns, column + count - i});
    const float scale = scales[row / kFp8Block * across + block];
    for (; column < stop; ++column, ++i) out[i] = values[codes[i]] * scale;
    if (column == columns) {
      column = 0;
      ++row;
    }
  }
}

void ScalesOfBand(std::span<const float> values, int64_t columns, float* scales) {
  const int64_t across = NumBlocks(columns), rows = static_cast<int64_t>(values.size()) / columns;
  std::fill_n(scales, across, 0.0f);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      float& most = scales[column / kFp8Block];
      most = std::max(most, std::fabs(values[row * columns + column]));
    }
  }
  for (int64_t block = 0; block < across; ++block) {
    scales[block] = scales[block] == 0.0f ? 1.0f : scales[block] / kernels::kMaxE4M3;
    // Of values below 2^-117: the smallest normal number still divides well.
    scales[block] = std::max(scales[block], 0x1p-126f);
  }
}

void EncodeBand(std::span<const float> values, int64_t columns, const float* scales,
                uint8_t* codes) {
  const int64_t rows = static_cast<int64_t>(values.size()) / columns;
  CHECK(rows <= kFp8Block && rows * columns == static_cast<int64_t>(values.size())) << rows;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      const int64_t i = row * columns + column;
      codes[i] = kernels::ToE4M3(values[i] / scales[column / kFp8Block]).bits;
    }
  }
}

}  // namespace sluice::checkpoints
