// E4M3 with a scale per tile, to the bit as docs/fp8.md says.
#include <cuda_fp8.h>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;  // a thread a column of a tile
static_assert(kThreads == kQuantTile);

struct Range {
  int64_t begin, end;
};

// Tile `index` of an axis: as `bounds` says, or every 128.
__device__ inline Range TileAt(const int32_t* bounds, int64_t index, int64_t extent) {
  if (bounds != nullptr) return {bounds[index], bounds[index + 1]};
  const int64_t begin = index * kQuantTile, end = begin + kQuantTile;
  return {begin, end < extent ? end : extent};
}

// Groups of rows, cut into tiles of 128 from the first row of each; group g's rows of scales begin
// at offsets[g] / 128 + g. `offsets` null: one group.
struct RowTiles {
  const int32_t* offsets;
  int64_t groups, rows;

  __device__ Range Group(int64_t g) const {
    return offsets == nullptr ? Range{0, rows} : Range{offsets[g], offsets[g + 1]};
  }
  // The tile of a row of scales; empty for one that belongs to none.
  __device__ Range TileOfScale(int64_t scale_row) const {
    for (int64_t g = 0; g < groups; ++g) {
      const Range group = Group(g);
      const int64_t begin = group.begin + (scale_row - group.begin / kQuantTile - g) * kQuantTile;
      if (begin < group.begin || begin >= group.end) continue;
      return {begin, begin + kQuantTile < group.end ? begin + kQuantTile : group.end};
    }
    return {0, 0};
  }
  __device__ Range TileOfRow(int64_t row) const {
    int64_t g = 0;
    while (Group(g).end <= row) ++g;
    const Range group = Group(g);
    const int64_t begin = row - (row - group.begin) % kQuantTile;
    return {begin, begin + kQuantTile < group.end ? begin + kQuantTile : group.end};
  }
};

// amax / 448 in IEEE division, at least 2^-126, 1 for amax 0; up to a power of two if asked for.
__device__ inline float ScaleOf(float amax, const QuantizeOptions& options) {
  amax = fmaxf(amax, options.amax_floor);
  if (amax == 0.0f) return 1.0f;
  const float scale = fmaxf(amax / kMaxE4M3, 0x1p-126f);
  if (options.format == ScaleFormat::kF32) return scale;
  return __uint_as_float((__float_as_uint(scale) + 0x7fffffu) & 0x7f800000u);
}

// A NaN keeps its sign. Infinity times an inverse of 0 has the sign that the CPU's multiplication
// gives.
__device__ inline uint8_t Encode(float x, float inverse) {
  const float product = x * inverse;
  if (isnan(product)) return isinf(x) ? 0xff : 0x7f | (__float_as_uint(x) >> 24 & 0x80u);
  return __nv_cvt_float_to_fp8(product, __NV_SATFINITE, __NV_E4M3);
}

__device__ inline float Decode(uint8_t code) {
  const uint32_t sign = (code & 0x80u) << 24, magnitude = code & 0x7fu;
  if (magnitude == 0x7f) return __uint_as_float(sign | 0x7fc00000u);
  if (magnitude < 8) {
    return __uint_as_float(sign | __float_as_uint(static_cast<float>(magnitude) * 0x1p-9f));
  }
  return __uint_as_float(sign | ((magnitude << 20) + (120u << 23)));
}

// Elements as floats, whatever they are stored as.
template <typename T>
struct PlainSource {
  Rows<const T> x;
  __device__ float At(int64_t row, int64_t column, int64_t) const {
    return ToFloat(x[row][column]);
  }
};
struct CodedSource {
  Rows<const uint8_t> codes;
  Rows<const float> scales;
  __device__ float At(int64_t row, int64_t column, int64_t tile) const {
    return Decode(codes[row][column]) * scales[row][tile];
  }
};

template <typename Source>
struct QuantizeParameters {
  Source source;
  const int32_t* tiles;  // of the columns; null: every 128
  RowTiles row_tiles;
  int64_t width;
  QuantizeOptions options;
  Rows<uint8_t> codes;
  Rows<float> scales;
  bool is_transposed;  // codes of columns
};

// Block (row, column tile).
template <typename Source>
__global__ void __launch_bounds__(kThreads)
    quantize_rows_kernel(const QuantizeParameters<Source> p) {
  __shared__ float partial[kWarps];
  const int64_t row = blockIdx.x, tile = blockIdx.y;
  const Range columns = TileAt(p.tiles, tile, p.width);
  const int64_t column = columns.begin + threadIdx.x;
  const Range rows = p.options.square_blocks ? p.row_tiles.TileOfRow(row) : Range{row, row + 1};
  float amax = 0.0f;
  for (int64_t r = rows.begin; column < columns.end && r < rows.end; ++r) {
    amax = fmaxf(amax, fabsf(p.source.At(r, column, tile)));
  }
  const float scale = ScaleOf(BlockReduce<Max>(amax, partial), p.options);
  if (threadIdx.x == 0) p.scales[row][tile] = scale;
  if (column < columns.end) {
    p.codes[row][column] = Encode(p.source.At(row, column, tile), 1.0f / scale);
  }
}

// A column's codes side by side, then zeros up to 128; four at a time where their rows are aligned.
template <typename Source>
__device__ void WriteTransposed(const QuantizeParameters<Source>& p, const Range& rows,
                                int64_t scale_row, int64_t column, int64_t tile, float inverse) {
  uint8_t* to = p.codes[column] + scale_row * kQuantTile;
  const bool is_aligned = reinterpret_cast<uint64_t>(to) % 4 == 0;
  for (int64_t first = 0; first < kQuantTile; first += 4) {
    uint8_t codes[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t r = rows.begin + first + i;
      codes[i] = r < rows.end ? Encode(p.source.At(r, column, tile), inverse) : uint8_t{0};
    }
    if (is_aligned) {
      *reinterpret_cast<uchar4*>(to + first) = make_uchar4(codes[0], codes[1], codes[2], codes[3]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) to[first + i] = codes[i];
    }
  }
}

// Block (row of scales, column tile); a thread a column.
template <typename Source>
__global__ void __launch_bounds__(kThreads)
    quantize_columns_kernel(const QuantizeParameters<Source> p) {
  __shared__ float partial[kWarps];
  const int64_t scale_row = blockIdx.x, tile = blockIdx.y;
  const Range rows = p.row_tiles.TileOfScale(scale_row);
  if (rows.begin == rows.end) return;
  const Range columns = TileAt(p.tiles, tile, p.width);
  const int64_t column = columns.begin + threadIdx.x;
  float amax = 0.0f;
  for (int64_t r = rows.begin; column < columns.end && r < rows.end; ++r) {
    amax = fmaxf(amax, fabsf(p.source.At(r, column, tile)));
  }
  if (p.options.square_blocks) amax = BlockReduce<Max>(amax, partial);
  if (column >= columns.end) return;
  const float scale = ScaleOf(amax, p.options), inverse = 1.0f / scale;
  p.scales[scale_row][column] = scale;
  if (p.is_transposed) {
    WriteTransposed(p, rows, scale_row, column, tile, inverse);
    return;
  }
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    p.codes[r][column] = Encode(p.source.At(r, column, tile), inverse);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    dequantize_rows_kernel(const CodedSource source, const int32_t* tiles, Rows<T> y,
                           int64_t width) {
  const int64_t row = blockIdx.x, tile = blockIdx.y;
  const Range columns = TileAt(tiles, tile, width);
  const int64_t column = columns.begin + threadIdx.x;
  if (column < columns.end) y[row][column] = FromFloat<T>(source.At(row, column, tile));
}

// A weight [E, O, I] and its blocks; everything but rows of an expert is contiguous.
template <typename T>
struct WeightParameters {
  Rows<T> w;  // a row an expert
  Rows<uint8_t> codes, transposed_codes;
  Rows<float> scales, transposed_scales;
  const int32_t* row_tiles;
  int64_t num_row_tiles, num_column_tiles, out, in;
  QuantizeOptions options;
};

// Block (block of the matrix, expert); a thread a column.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    quantize_weight_kernel(const WeightParameters<const T> p) {
  __shared__ float partial[kWarps];
  const int64_t expert = blockIdx.y;
  const int64_t row_tile = blockIdx.x / p.num_column_tiles;
  const int64_t column_tile = blockIdx.x % p.num_column_tiles;
  const Range rows = TileAt(p.row_tiles, row_tile, p.out);
  const Range columns = TileAt(nullptr, column_tile, p.in);
  const int64_t column = columns.begin + threadIdx.x;
  const bool inside = column < columns.end;
  const T* w = p.w[expert];
  float amax = 0.0f;
  for (int64_t r = rows.begin; inside && r < rows.end; ++r) {
    amax = fmaxf(amax, fabsf(ToFloat(w[r * p.in + column])));
  }
  const float scale = ScaleOf(BlockReduce<Max>(amax, partial), p.options);
  const bool transposes = !p.transposed_codes.is_null();
  if (threadIdx.x == 0) {
    p.scales[expert][row_tile * p.num_column_tiles + column_tile] = scale;
    if (transposes) {
      p.transposed_scales[expert][column_tile * p.num_row_tiles + row_tile] = scale;
    }
  }
  const float inverse = 1.0f / scale;
  for (int64_t r = rows.begin; inside && r < rows.end; ++r) {
    const uint8_t code = Encode(ToFloat(w[r * p.in + column]), inverse);
    p.codes[expert][r * p.in + column] = code;
    if (transposes) p.transposed_codes[expert][column * p.out + r] = code;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) dequantize_weight_kernel(const WeightParameters<T> p) {
  const int64_t expert = blockIdx.y;
  const int64_t row_tile = blockIdx.x / p.num_column_tiles;
  const int64_t column_tile = blockIdx.x % p.num_column_tiles;
  const Range rows = TileAt(p.row_tiles, row_tile, p.out);
  const Range columns = TileAt(nullptr, column_tile, p.in);
  const int64_t column = columns.begin + threadIdx.x;
  if (column >= columns.end) return;
  const float scale = p.scales[expert][row_tile * p.num_column_tiles + column_tile];
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const int64_t i = r * p.in + column;
    p.w[expert][i] = FromFloat<T>(Decode(p.codes[expert][i]) * scale);
  }
}

// Codes, then the biased exponents of the scales, then zeros. A block a row.
__global__ void __launch_bounds__(kThreads)
    pack_wire_rows_kernel(Rows<const uint8_t> codes, Rows<const float> scales, Rows<uint8_t> wire,
                          int64_t width, int64_t tiles, int64_t bytes) {
  const int64_t row = blockIdx.x;
  for (int64_t i = threadIdx.x; i < bytes; i += kThreads) {
    uint8_t byte = 0;
    if (i < width) {
      byte = codes[row][i];
    } else if (i < width + tiles) {
      byte = static_cast<uint8_t>(__float_as_uint(scales[row][i - width]) >> 23);
    }
    wire[row][i] = byte;
  }
}

__global__ void __launch_bounds__(kThreads)
    unpack_wire_rows_kernel(Rows<uint8_t> codes, Rows<float> scales, Rows<const uint8_t> wire,
                            int64_t width, int64_t tiles) {
  const int64_t row = blockIdx.x;
  for (int64_t i = threadIdx.x; i < width + tiles; i += kThreads) {
    const uint8_t byte = wire[row][i];
    if (i < width) {
      codes[row][i] = byte;
    } else {
      scales[row][i - width] = __uint_as_float(uint32_t{byte} << 23);
    }
  }
}

const int32_t* Bounds(const ConstTensorView& view) {
  return static_cast<const int32_t*>(view.raw_data());
}

int64_t TilesOf(const ConstTensorView& tiles, int64_t extent) {
  return tiles.is_null() ? NumTiles(extent) : tiles.extent(0) - 1;
}

LaunchShape ShapeOf(int64_t blocks, int64_t blocks_y) {
  return {.blocks = blocks, .threads = kThreads, .shared_bytes = 0, .blocks_y = blocks_y};
}

RowTiles RowTilesOf(const ConstTensorView& offsets, int64_t rows) {
  return {Bounds(offsets), offsets.is_null() ? 1 : offsets.extent(0) - 1, rows};
}

template <typename Source>
void QuantizeInto(Stream& stream, QuantizeParameters<Source> p, const QuantizedColumns& columns,
                  int64_t num_tiles) {
  p.codes = MutableRowsOf<uint8_t>(columns.codes);
  p.scales = MutableRowsOf<float>(columns.scales);
  p.is_transposed = columns.transposed;
  Launch(stream, ShapeOf(columns.scales.extent(0), num_tiles), quantize_columns_kernel<Source>, p);
}

CodedSource SourceOf(const QuantizedRows& rows) {
  return {RowsOf<uint8_t>(rows.codes), RowsOf<float>(rows.scales)};
}

// The blocks of a weight; `w` is set by the caller.
template <typename T>
WeightParameters<T> ParametersOf(const QuantizedWeight& weight, const Shape& shape) {
  return {.w = {},
          .codes = MutableRowsOf<uint8_t>(weight.codes),
          .transposed_codes = MutableRowsOf<uint8_t>(weight.transposed_codes),
          .scales = MutableRowsOf<float>(weight.scales),
          .transposed_scales = MutableRowsOf<float>(weight.transposed_scales),
          .row_tiles = Bounds(weight.row_tiles),
          .num_row_tiles = TilesOf(weight.row_tiles, shape[1]),
          .num_column_tiles = NumTiles(shape[2]),
          .out = shape[1],
          .in = shape[2],
          .options = {}};
}

}  // namespace

void Quantize(Stream& stream, const QuantizeArgs& args) {
  const int64_t rows = args.x.extent(0), width = args.x.extent(1);
  const int64_t num_tiles = TilesOf(args.tiles, width);
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using Source = PlainSource<typename decltype(tag)::Type>;
    QuantizeParameters<Source> p = {.source = {RowsOf<typename decltype(tag)::Type>(args.x)},
                                    .tiles = Bounds(args.tiles),
                                    .row_tiles = RowTilesOf(args.offsets, rows),
                                    .width = width,
                                    .options = args.options,
                                    .codes = {},
                                    .scales = {},
                                    .is_transposed = false};
    if (!args.rows.is_null()) {
      p.codes = MutableRowsOf<uint8_t>(args.rows.codes);
      p.scales = MutableRowsOf<float>(args.rows.scales);
      Launch(stream, ShapeOf(rows, num_tiles), quantize_rows_kernel<Source>, p);
    }
    if (!args.columns.is_null()) QuantizeInto(stream, p, args.columns, num_tiles);
  });
}

void RequantizeColumns(Stream& stream, const RequantizeColumnsArgs& args) {
  const int64_t rows = args.rows.codes.extent(0), width = args.rows.codes.extent(1);
  const QuantizeParameters<CodedSource> p = {.source = SourceOf(args.rows),
                                             .tiles = Bounds(args.tiles),
                                             .row_tiles = RowTilesOf(args.offsets, rows),
                                             .width = width,
                                             .options = args.options,
                                             .codes = {},
                                             .scales = {},
                                             .is_transposed = false};
  QuantizeInto(stream, p, args.columns, TilesOf(args.tiles, width));
}

void DequantizeRows(Stream& stream, const DequantizeRowsArgs& args) {
  const int64_t width = args.y.extent(1);
  ForFloatType(args.y.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Launch(stream, ShapeOf(args.y.extent(0), TilesOf(args.tiles, width)), dequantize_rows_kernel<T>,
           SourceOf(args.rows), Bounds(args.tiles), MutableRowsOf<T>(args.y), width);
  });
}

void QuantizeWeight(Stream& stream, const QuantizeWeightArgs& args) {
  ForFloatType(args.w.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    auto p = ParametersOf<const T>(args.weight, args.w.shape());
    p.w = RowsOf<T>(args.w);
    p.options = args.options;
    Launch(stream, ShapeOf(p.num_row_tiles * p.num_column_tiles, args.w.extent(0)),
           quantize_weight_kernel<T>, p);
  });
}

void DequantizeWeight(Stream& stream, const DequantizeWeightArgs& args) {
  ForFloatType(args.w.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    auto p = ParametersOf<T>(args.weight, args.w.shape());
    p.w = MutableRowsOf<T>(args.w);
    Launch(stream, ShapeOf(p.num_row_tiles * p.num_column_tiles, args.w.extent(0)),
           dequantize_weight_kernel<T>, p);
  });
}

void PackWireRows(Stream& stream, const WireRowsArgs& args) {
  const int64_t rows = args.wire.extent(0), width = args.rows.codes.extent(1);
  Launch(stream, ShapeOf(rows, 1), pack_wire_rows_kernel, RowsOf<uint8_t>(args.rows.codes),
         RowsOf<float>(args.rows.scales), MutableRowsOf<uint8_t>(args.wire), width, NumTiles(width),
         WireRowBytes(width));
}

void UnpackWireRows(Stream& stream, const WireRowsArgs& args) {
  const int64_t rows = args.wire.extent(0), width = args.rows.codes.extent(1);
  Launch(stream, ShapeOf(rows, 1), unpack_wire_rows_kernel, MutableRowsOf<uint8_t>(args.rows.codes),
         MutableRowsOf<float>(args.rows.scales), RowsOf<uint8_t>(args.wire), width,
         NumTiles(width));
}

}  // namespace sluice::kernels::cuda
