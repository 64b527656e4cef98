// Each element by itself, with its amax looked for again: the rules of docs/fp8.md word for word.
#include "kernels/reference/block_quantize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/reference/access.h"

namespace sluice::kernels::reference {
namespace {

struct Range {
  int64_t begin = 0, end = 0, index = 0;
};

// The tile that element i of an axis lies in.
Range TileOf(const ConstTensorView& tiles, int64_t i, int64_t extent) {
  if (tiles.is_null()) {
    const int64_t index = i / kQuantTile;
    return {index * kQuantTile, std::min(extent, (index + 1) * kQuantTile), index};
  }
  int64_t index = 0;
  while (tiles.data<int32_t>()[index + 1] <= i) ++index;
  return {tiles.data<int32_t>()[index], tiles.data<int32_t>()[index + 1], index};
}

// The tile along the rows that row r lies in, with its row of scales.
Range RowTileOf(const ConstTensorView& offsets, int64_t r, int64_t rows) {
  int64_t group = 0, begin = 0, end = rows;
  if (!offsets.is_null()) {
    while (offsets.data<int32_t>()[group + 1] <= r) ++group;
    begin = offsets.data<int32_t>()[group];
    end = offsets.data<int32_t>()[group + 1];
  }
  const int64_t tile = (r - begin) / kQuantTile;
  return {begin + tile * kQuantTile, std::min(end, begin + (tile + 1) * kQuantTile),
          begin / kQuantTile + group + tile};
}

// Largest magnitude in a rectangle; NaN counts for nothing.
float Amax(const ConstTensorView& x, const Range& rows, const Range& columns) {
  double amax = 0;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    for (int64_t c = columns.begin; c < columns.end; ++c) {
      const double magnitude = std::abs(Get(x, r, c));
      if (magnitude > amax) amax = magnitude;
    }
  }
  return static_cast<float>(amax);
}

float Scale(float amax, const QuantizeOptions& options) {
  amax = std::max(amax, options.amax_floor);
  if (amax == 0) return 1;
  const float scale = std::max(amax / 448.0f, 0x1p-126f);
  if (options.format == ScaleFormat::kF32 || std::isinf(scale)) return scale;
  int exponent = 0;
  const float fraction = std::frexp(scale, &exponent);  // in [0.5, 1)
  return std::ldexp(1.0f, fraction == 0.5f ? exponent - 1 : exponent);
}

// The nearest code by search, ties to the even one; saturates.
E4M3 Nearest(float x) {
  if (std::isnan(x)) return {static_cast<uint8_t>(std::signbit(x) ? 0xff : 0x7f)};
  const double magnitude = std::abs(x);
  const auto value = [](int code) { return double{ToFloat(E4M3{static_cast<uint8_t>(code)})}; };
  int best = 0, above = 0x7e;  // value(best) <= magnitude; codes ascend with their values
  while (best + 1 < above) {
    const int middle = (best + above) / 2;
    (value(middle) <= magnitude ? best : above) = middle;
  }
  const double low = magnitude - value(best), high = value(above) - magnitude;
  if (high < low || (high == low && above % 2 == 0)) best = above;
  return {static_cast<uint8_t>(best | (std::signbit(x) ? 0x80 : 0))};
}

E4M3 Encode(double x, float scale) {
  const float inverse = 1.0f / scale;
  return Nearest(static_cast<float>(x) * inverse);
}

E4M3& CodeAt(const TensorView& codes, int64_t row, int64_t column) {
  return codes.mutable_data<E4M3>()[row * codes.row_stride() + column];
}
float& ScaleAt(const TensorView& scales, int64_t row, int64_t column) {
  return scales.mutable_data<float>()[row * scales.row_stride() + column];
}

double ValueAt(const QuantizedRows& rows, const ConstTensorView& tiles, int64_t r, int64_t c) {
  const Range tile = TileOf(tiles, c, rows.codes.extent(1));
  return ToFloat(CodeAt(rows.codes, r, c)) * ScaleAt(rows.scales, r, tile.index);
}

}  // namespace

void Quantize(const QuantizeArgs& args) {
  const int64_t height = args.x.extent(0), width = args.x.extent(1);
  for (int64_t r = 0; r < height; ++r) {
    const Range rows = RowTileOf(args.offsets, r, height), row = {r, r + 1, r};
    for (int64_t c = 0; c < width; ++c) {
      const Range columns = TileOf(args.tiles, c, width), column = {c, c + 1, c};
      const bool square = args.options.square_blocks;
      const double x = Get(args.x, r, c);
      if (!args.rows.is_null()) {
        float& scale = ScaleAt(args.rows.scales, r, columns.index);
        if (c == columns.begin) {
          scale = Scale(Amax(args.x, square ? rows : row, columns), args.options);
        }
        CodeAt(args.rows.codes, r, c) = Encode(x, scale);
      }
      if (!args.columns.is_null()) {
        float& scale = ScaleAt(args.columns.scales, rows.index, c);
        if (r == rows.begin) {
          scale = Scale(Amax(args.x, rows, square ? columns : column), args.options);
        }
        if (!args.columns.transposed) {
          CodeAt(args.columns.codes, r, c) = Encode(x, scale);
          continue;
        }
        // A tile's codes, then zeros.
        const int64_t first = rows.index * kQuantTile;
        CodeAt(args.columns.codes, c, first + r - rows.begin) = Encode(x, scale);
        if (r + 1 < rows.end) continue;
        for (int64_t i = rows.end - rows.begin; i < kQuantTile; ++i) {
          CodeAt(args.columns.codes, c, first + i) = E4M3();
        }
      }
    }
  }
}

void RequantizeColumns(const RequantizeColumnsArgs& args) {
  const int64_t height = args.rows.codes.extent(0), width = args.rows.codes.extent(1);
  std::vector<float> values(static_cast<size_t>(height * width));
  const TensorView x(values.data(), DType::kF32, {height, width});
  DequantizeRows({.rows = args.rows, .tiles = args.tiles, .y = x});
  Quantize({.x = x,
            .columns = args.columns,
            .tiles = args.tiles,
            .offsets = args.offsets,
            .options = args.options});
}

void DequantizeRows(const DequantizeRowsArgs& args) {
  for (int64_t r = 0; r < args.y.extent(0); ++r) {
    for (int64_t c = 0; c < args.y.extent(1); ++c) {
      Set(args.y, ValueAt(args.rows, args.tiles, r, c), r, c);
    }
  }
}

void QuantizeWeight(const QuantizeWeightArgs& args) {
  const QuantizedWeight& weight = args.weight;
  const int64_t height = args.w.extent(1), width = args.w.extent(2);
  for (int64_t e = 0; e < args.w.extent(0); ++e) {
    for (int64_t r = 0; r < height; ++r) {
      const Range rows = TileOf(weight.row_tiles, r, height);
      for (int64_t c = 0; c < width; ++c) {
        const Range columns = TileOf({}, c, width);
        const int64_t block = rows.index * weight.scales.extent(2) + columns.index;
        if (r == rows.begin && c == columns.begin) {
          double amax = 0;
          for (int64_t i = rows.begin; i < rows.end; ++i) {
            for (int64_t j = columns.begin; j < columns.end; ++j) {
              amax = std::max(amax, std::abs(Get(args.w, e, i * width + j)));
            }
          }
          ScaleAt(weight.scales, e, block) = Scale(static_cast<float>(amax), args.options);
        }
        const float scale = ScaleAt(weight.scales, e, block);
        const E4M3 code = Encode(Get(args.w, e, r * width + c), scale);
        CodeAt(weight.codes, e, r * width + c) = code;
        CodeAt(weight.transposed_codes, e, c * height + r) = code;
        ScaleAt(weight.transposed_scales, e, columns.index * weight.scales.extent(1) + rows.index) =
            scale;
      }
    }
  }
}

void DequantizeWeight(const DequantizeWeightArgs& args) {
  const QuantizedWeight& weight = args.weight;
  const int64_t height = args.w.extent(1), width = args.w.extent(2);
  for (int64_t e = 0; e < args.w.extent(0); ++e) {
    for (int64_t i = 0; i < height * width; ++i) {
      const int64_t row = TileOf(weight.row_tiles, i / width, height).index;
      const int64_t column = i % width / kQuantTile;
      const float scale = ScaleAt(weight.scales, e, row * weight.scales.extent(2) + column);
      Set(args.w, ToFloat(CodeAt(weight.codes, e, i)) * scale, e, i);
    }
  }
}

}  // namespace sluice::kernels::reference
