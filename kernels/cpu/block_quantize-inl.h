#include "kernels/cpu/e4m3-inl.h"

namespace sluice::kernels::cpu::SLUICE_TARGET {

// Columns [begin, end) of column tile `index`.
struct ColumnTile {
  int64_t index = 0, begin = 0, end = 0;
};

SLUICE_INLINE ColumnTile ColumnTileAt(const ConstTensorView& tiles, int64_t index, int64_t width) {
  if (!tiles.is_null()) {
    const int32_t* bounds = static_cast<const int32_t*>(tiles.raw_data());
    return {index, bounds[index], bounds[index + 1]};
  }
  const int64_t begin = index * kQuantTile, end = begin + kQuantTile;
  return {index, begin, end < width ? end : width};
}

SLUICE_INLINE uint8_t* CodesAt(const TensorView& codes, int64_t row, int64_t column) {
  return static_cast<uint8_t*>(codes.raw_mutable_data()) + row * codes.row_stride() + column;
}
SLUICE_INLINE float* ScaleAt(const TensorView& scales, int64_t row, int64_t column) {
  return static_cast<float*>(scales.raw_mutable_data()) + row * scales.row_stride() + column;
}

// Largest magnitude of n elements; columns' largest so far are raised as well. NaN counts for
// nothing: Max returns its second operand then.
template <typename T>
SLUICE_INLINE float RowAmax(const T* x, int64_t n, float* column_amax) {
  F32 most = Zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    const int left = n - i < kLanes ? static_cast<int>(n - i) : kLanes;
    const F32 magnitude = Abs(left == kLanes ? Load(x + i) : Load(x + i, left));
    most = Max(magnitude, most);
    Store(column_amax + i, Max(magnitude, Load(column_amax + i)));
  }
  return ReduceMax(most);
}

template <typename T>
SLUICE_INLINE void EncodeRow(const T* x, int64_t n, float inverse, uint8_t* codes) {
  const F32 factor = Set(inverse);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) StoreE4M3(codes + i, Mul(Load(x + i), factor));
  if (i < n) {
    const int left = static_cast<int>(n - i);
    StoreE4M3(codes + i, Mul(Load(x + i, left), factor), left);
  }
}

// The same with a factor for each column.
template <typename T>
SLUICE_INLINE void EncodeRowByColumn(const T* x, int64_t n, const float* inverse, uint8_t* codes) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) StoreE4M3(codes + i, Mul(Load(x + i), Load(inverse + i)));
  if (i < n) {
    const int left = static_cast<int>(n - i);
    StoreE4M3(codes + i, Mul(Load(x + i, left), Load(inverse + i)), left);
  }
}

// kBlock arrays end a vector after the widest tile.
inline constexpr int64_t kBlock = kQuantTile + kLanes;

SLUICE_INLINE void ScalesOfColumns(const QuantizeOptions& options, const float* amax, int64_t n,
                                   float* scales, float* inverse) {
  for (int64_t i = 0; i < n; ++i) {
    scales[i] = ScaleOf(amax[i], options.format == ScaleFormat::kPowerOfTwo, options.amax_floor);
    inverse[i] = 1.0f / scales[i];
  }
}

template <typename T>
inline void QuantizeBlock(const QuantizeArgs& args, const RowTile& rows, const ColumnTile& tile) {
  const bool power_of_two = args.options.format == ScaleFormat::kPowerOfTwo;
  const int64_t n = tile.end - tile.begin, stride = args.x.row_stride();
  const T* x = static_cast<const T*>(args.x.raw_data()) + tile.begin;
  float row_amax[kQuantTile], column_amax[kBlock] = {};
  float most = 0;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    row_amax[r - rows.begin] = RowAmax(x + r * stride, n, column_amax);
    most = most > row_amax[r - rows.begin] ? most : row_amax[r - rows.begin];
  }
  if (args.options.square_blocks) {
    for (float& amax : row_amax) amax = most;
    for (int64_t i = 0; i < n; ++i) column_amax[i] = most;
  }
  if (!args.rows.is_null()) {
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      const float scale = ScaleOf(row_amax[r - rows.begin], power_of_two, args.options.amax_floor);
      *ScaleAt(args.rows.scales, r, tile.index) = scale;
      EncodeRow(x + r * stride, n, 1.0f / scale, CodesAt(args.rows.codes, r, tile.begin));
    }
  }
  if (!args.columns.is_null()) {
    float inverse[kBlock];
    ScalesOfColumns(args.options, column_amax, n,
                    ScaleAt(args.columns.scales, rows.index, tile.begin), inverse);
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      EncodeRowByColumn(x + r * stride, n, inverse, CodesAt(args.columns.codes, r, tile.begin));
    }
  }
}

template <typename T>
inline void QuantizeRowTile(const QuantizeArgs& args, const RowTile& rows) {
  const int64_t width = args.x.extent(1);
  for (int64_t i = 0, end = 0; end < width; ++i) {
    const ColumnTile tile = ColumnTileAt(args.tiles, i, width);
    QuantizeBlock<T>(args, rows, tile);
    end = tile.end;
  }
}

SLUICE_INLINE void DecodeRow(const uint8_t* codes, int64_t n, float scale, float* out) {
  const F32 factor = Set(scale);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Mul(LoadE4M3(codes + i), factor));
  if (i < n) {
    const int left = static_cast<int>(n - i);
    Store(out + i, Mul(LoadE4M3(codes + i, left), factor), left);
  }
}

inline void RequantizeRowTile(const RequantizeColumnsArgs& args, const RowTile& rows) {
  const int64_t width = args.rows.codes.extent(1);
  float values[kQuantTile * kQuantTile];
  for (int64_t i = 0, end = 0; end < width; ++i) {
    const ColumnTile tile = ColumnTileAt(args.tiles, i, width);
    const int64_t n = tile.end - tile.begin;
    float column_amax[kBlock] = {}, inverse[kBlock];
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      float* row = values + (r - rows.begin) * kQuantTile;
      DecodeRow(CodesAt(args.rows.codes, r, tile.begin), n, *ScaleAt(args.rows.scales, r, i), row);
      RowAmax(row, n, column_amax);
    }
    ScalesOfColumns(args.options, column_amax, n,
                    ScaleAt(args.columns.scales, rows.index, tile.begin), inverse);
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      EncodeRowByColumn(values + (r - rows.begin) * kQuantTile, n, inverse,
                        CodesAt(args.columns.codes, r, tile.begin));
    }
    end = tile.end;
  }
}

template <typename T>
inline void DequantizeRowRange(const DequantizeRowsArgs& args, int64_t begin, int64_t end) {
  const int64_t width = args.y.extent(1);
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t i = 0, next = 0; next < width; ++i) {
      const ColumnTile tile = ColumnTileAt(args.tiles, i, width);
      const uint8_t* codes = CodesAt(args.rows.codes, r, 0);
      T* y = static_cast<T*>(args.y.raw_mutable_data()) + r * args.y.row_stride();
      const F32 scale = Set(*ScaleAt(args.rows.scales, r, i));
      for (int64_t c = tile.begin; c < tile.end; c += kLanes) {
        const int left = tile.end - c < kLanes ? static_cast<int>(tile.end - c) : kLanes;
        Store(y + c, Mul(LoadE4M3(codes + c, left), scale), left);
      }
      next = tile.end;
    }
  }
}

// Squares of codes go through a buffer: whole cache lines are read, and written a few at a time.
SLUICE_INLINE void TransposeCodes(const uint8_t* codes, int64_t stride, int64_t rows,
                                  int64_t columns, uint8_t* out, int64_t out_stride) {
  for (int64_t c = 0; c < columns; ++c) {
    uint8_t* row = out + c * out_stride;
    for (int64_t r = 0; r < rows; ++r) row[r] = codes[r * stride + c];
  }
}

template <typename T>
inline void QuantizeWeightTile(const QuantizeWeightArgs& args, int64_t e, const RowTile& rows) {
  const QuantizedWeight& weight = args.weight;
  const int64_t height = args.w.extent(1), width = args.w.extent(2), n = rows.end - rows.begin;
  const int64_t num_tiles = NumTiles(width), row_tiles = weight.scales.extent(1);
  const T* w = static_cast<const T*>(args.w.raw_data()) + e * args.w.row_stride();
  uint8_t* codes = CodesAt(weight.codes, e, 0);
  for (int64_t i = 0; i < num_tiles; ++i) {
    const ColumnTile tile = ColumnTileAt(ConstTensorView(), i, width);
    const int64_t columns = tile.end - tile.begin;
    float unused[kBlock] = {};
    float amax = 0;
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      const float of_row = RowAmax(w + r * width + tile.begin, columns, unused);
      amax = amax > of_row ? amax : of_row;
    }
    const float scale =
        ScaleOf(amax, args.options.format == ScaleFormat::kPowerOfTwo, args.options.amax_floor);
    *ScaleAt(weight.scales, e, rows.index * num_tiles + i) = scale;
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      EncodeRow(w + r * width + tile.begin, columns, 1.0f / scale, codes + r * width + tile.begin);
    }
    if (weight.transposed_codes.is_null()) continue;
    *ScaleAt(weight.transposed_scales, e, i * row_tiles + rows.index) = scale;
    TransposeCodes(codes + rows.begin * width + tile.begin, width, n, columns,
                   CodesAt(weight.transposed_codes, e, tile.begin * height + rows.begin), height);
  }
}

inline constexpr BlockQuantizeTable kBlockQuantizeTable = {
    .quantize_f32 = QuantizeRowTile<float>,
    .quantize_bf16 = QuantizeRowTile<BFloat16>,
    .requantize = RequantizeRowTile,
    .dequantize = {.f32 = DequantizeRowRange<float>, .bf16 = DequantizeRowRange<BFloat16>},
    .quantize_weight_f32 = QuantizeWeightTile<float>,
    .quantize_weight_bf16 = QuantizeWeightTile<BFloat16>,
};

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
