// E4M3 with a scale per tile, to the bit as docs/fp8.md says.
#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/quantize_tile.cuh"
#include "kernels/cuda/reduce.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 128;  // of the kernels that have a thread a column of a tile
static_assert(kThreads == kQuantTile);

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
  // The tile of a row of scales; empty for one that belongs to none. Asked by a whole block, which
  // looks through the groups side by side.
  __device__ Range TileOfScale(int64_t scale_row, Range* shared) const {
    if (threadIdx.x == 0) *shared = {0, 0};
    __syncthreads();
    for (int64_t g = threadIdx.x; g < groups; g += blockDim.x) {
      const Range group = Group(g);
      const int64_t begin = group.begin + (scale_row - group.begin / kQuantTile - g) * kQuantTile;
      if (begin < group.begin || begin >= group.end) continue;
      *shared = {begin, begin + kQuantTile < group.end ? begin + kQuantTile : group.end};
    }
    __syncthreads();
    return *shared;
  }
};

// Elements as floats, whatever they are stored as.
template <typename T>
struct PlainSource {
  Rows<const T> x;
  __device__ void Load(int64_t row, int64_t column, int64_t, int count, float (&to)[kChunk]) const {
    Load8(x[row] + column, count, to);
  }
};
struct CodedSource {
  Rows<const uint8_t> codes;
  Rows<const float> scales;
  __device__ float At(int64_t row, int64_t column, int64_t tile) const {
    return Decode(codes[row][column]) * scales[row][tile];
  }
  __device__ void Load(int64_t row, int64_t column, int64_t tile, int count,
                       float (&to)[kChunk]) const {
    const uint2 raw = LoadCodes8(codes[row] + column, count);
    const float scale = scales[row][tile];
    Decode4(raw.x, scale, to);
    Decode4(raw.y, scale, to + 4);
  }
};

template <typename Source>
struct QuantizeParameters {
  Source source;
  const int32_t* tiles;  // of the columns; null: every 128
  RowTiles row_tiles;
  int64_t width;
  QuantizeOptions options;
  Rows<uint8_t> row_codes = {}, column_codes = {};  // either may be null
  Rows<float> row_scales = {}, column_scales = {};
  bool is_transposed = false;  // column_codes
};

// A tile of rows and columns, in registers.
struct HeldTile {
  Range rows, columns;
  int64_t scale_row, tile;  // its place among the tiles
  float x[kChunks][kChunk];

  __device__ int64_t width() const { return columns.end - columns.begin; }
};

// Codes of 1 x 128, or all with the scale of `block_amax`, if that is not negative.
template <typename Source>
__device__ void QuantizeAlongRows(const QuantizeParameters<Source>& p, const HeldTile& held,
                                  const TilePlace& place, float block_amax) {
  const int count = place.Count(held.width());
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const int64_t row = held.rows.begin + place.row + i * kRowStep;
    const float amax = block_amax >= 0 ? block_amax : LargestOfRow(LargestOf(held.x[i]));
    if (row >= held.rows.end) continue;
    const float scale = ScaleOf(amax, p.options), inverse = 1.0f / scale;
    if (place.column == 0) p.row_scales[row][held.tile] = scale;
    StoreCodes8(p.row_codes[row] + held.columns.begin + place.column,
                Encode8(held.x[i], [&](int) { return inverse; }), count);
  }
}

struct ColumnScratch {
  CodeTile codes;
  float amax[kQuantizeWarps][kQuantTile];
  float inverse[kQuantTile];
};

// The scales of 128 x 1, written down, and what to multiply with, in shared memory.
template <typename Source>
__device__ void ScalesOfColumns(const QuantizeParameters<Source>& p, const HeldTile& held,
                                const TilePlace& place, float block_amax, ColumnScratch& scratch) {
#pragma unroll
  for (int j = 0; j < kChunk; ++j) {
    float amax = 0.0f;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) amax = fmaxf(amax, fabsf(held.x[i][j]));
    amax = fmaxf(amax, __shfl_xor_sync(kAllLanes, amax, kRowThreads));
    if (threadIdx.x % kWarp < kRowThreads) {
      scratch.amax[threadIdx.x / kWarp][place.column + j] = amax;
    }
  }
  __syncthreads();
  const int column = static_cast<int>(threadIdx.x);
  if (column < kQuantTile) {
    float amax = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kQuantizeWarps; ++warp)
      amax = fmaxf(amax, scratch.amax[warp][column]);
    const float scale = ScaleOf(block_amax >= 0 ? block_amax : amax, p.options);
    scratch.inverse[column] = 1.0f / scale;
    if (column < held.width()) p.column_scales[held.scale_row][held.columns.begin + column] = scale;
  }
  __syncthreads();
}

template <typename Source>
__device__ void QuantizeAlongColumns(const QuantizeParameters<Source>& p, const HeldTile& held,
                                     const TilePlace& place, float block_amax,
                                     ColumnScratch& scratch) {
  ScalesOfColumns(p, held, place, block_amax, scratch);
  float inverse[kChunk];
#pragma unroll
  for (int j = 0; j < kChunk; ++j) inverse[j] = scratch.inverse[place.column + j];
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const int row = place.row + i * kRowStep;
    const uint2 codes = Encode8(held.x[i], [&](int j) { return inverse[j]; });
    if (p.is_transposed) {
      scratch.codes.PutRow(row, place.column, codes);
    } else if (held.rows.begin + row < held.rows.end) {
      StoreCodes8(p.column_codes[held.rows.begin + row] + held.columns.begin + place.column, codes,
                  place.Count(held.width()));
    }
  }
  if (!p.is_transposed) return;
  __syncthreads();
  StoreColumns(scratch.codes, held.width(), kQuantTile, [&](int column) {
    return p.column_codes[held.columns.begin + column] + held.scale_row * kQuantTile;
  });
}

// Block (row of scales, column tile): codes along rows, along columns, or both.
template <typename Source>
__global__ void __launch_bounds__(kQuantizeThreads)
    quantize_kernel(const QuantizeParameters<Source> p) {
  __shared__ ColumnScratch scratch;
  __shared__ Range shared_rows;
  __shared__ float partial[kQuantizeWarps];
  HeldTile held;
  held.scale_row = blockIdx.x;
  held.tile = blockIdx.y;
  held.rows = p.row_tiles.TileOfScale(held.scale_row, &shared_rows);
  if (held.rows.begin == held.rows.end) return;
  held.columns = TileAt(p.tiles, held.tile, p.width);
  const TilePlace place;
  const int count = place.Count(held.width());
  float amax = 0.0f;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const int64_t row = held.rows.begin + place.row + i * kRowStep;
    const bool is_there = row < held.rows.end && count > 0;
    p.source.Load(is_there ? row : held.rows.begin,
                  held.columns.begin + (is_there ? place.column : 0), held.tile,
                  is_there ? count : 0, held.x[i]);
    amax = fmaxf(amax, LargestOf(held.x[i]));
  }
  const float block_amax = p.options.square_blocks ? BlockReduce<Max>(amax, partial) : -1.0f;
  if (!p.row_codes.is_null()) QuantizeAlongRows(p, held, place, block_amax);
  if (!p.column_codes.is_null()) QuantizeAlongColumns(p, held, place, block_amax, scratch);
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

// Block (block of the matrix, expert).
template <typename T>
__global__ void __launch_bounds__(kQuantizeThreads)
    quantize_weight_kernel(const WeightParameters<const T> p) {
  __shared__ CodeTile swapped;
  __shared__ float partial[kQuantizeWarps];
  const int64_t expert = blockIdx.y;
  const int64_t row_tile = blockIdx.x / p.num_column_tiles;
  const int64_t column_tile = blockIdx.x % p.num_column_tiles;
  const Range rows = TileAt(p.row_tiles, row_tile, p.out);
  const Range columns = TileAt(nullptr, column_tile, p.in);
  const TilePlace place;
  const int count = place.Count(columns.end - columns.begin);
  const T* w = p.w[expert];
  float x[kChunks][kChunk];
  float amax = 0.0f;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const int64_t row = rows.begin + place.row + i * kRowStep;
    const bool is_there = row < rows.end && count > 0;
    Load8(w + (is_there ? row * p.in + columns.begin + place.column : 0), is_there ? count : 0,
          x[i]);
    amax = fmaxf(amax, LargestOf(x[i]));
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
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const int row = place.row + i * kRowStep;
    const uint2 codes = Encode8(x[i], [&](int) { return inverse; });
    if (transposes) swapped.PutRow(row, place.column, codes);
    if (rows.begin + row >= rows.end) continue;
    StoreCodes8(p.codes[expert] + (rows.begin + row) * p.in + columns.begin + place.column, codes,
                count);
  }
  if (!transposes) return;
  __syncthreads();
  StoreColumns(swapped, columns.end - columns.begin, rows.end - rows.begin, [&](int column) {
    return p.transposed_codes[expert] + (columns.begin + column) * p.out + rows.begin;
  });
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

LaunchShape ShapeOf(int64_t blocks, int64_t blocks_y, int threads = kThreads) {
  return {.blocks = blocks,
          .threads = static_cast<unsigned>(threads),
          .shared_bytes = 0,
          .blocks_y = blocks_y};
}

RowTiles RowTilesOf(const ConstTensorView& offsets, int64_t rows) {
  return {Bounds(offsets), offsets.is_null() ? 1 : offsets.extent(0) - 1, rows};
}

// Of QuantizeArgs or RequantizeColumnsArgs; where the results go is set by the caller.
template <typename Source, typename Args>
QuantizeParameters<Source> ParametersOf(const Source& source, const Args& args, int64_t rows,
                                        int64_t width) {
  return {.source = source,
          .tiles = Bounds(args.tiles),
          .row_tiles = RowTilesOf(args.offsets, rows),
          .width = width,
          .options = args.options};
}

template <typename Source>
void SetColumns(QuantizeParameters<Source>& p, const QuantizedColumns& columns) {
  p.column_codes = MutableRowsOf<uint8_t>(columns.codes);
  p.column_scales = MutableRowsOf<float>(columns.scales);
  p.is_transposed = columns.transposed;
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
  const int64_t scale_rows =
      args.offsets.is_null() ? NumTiles(rows) : NumColumnTiles(rows, args.offsets.extent(0) - 1);
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using Source = PlainSource<typename decltype(tag)::Type>;
    auto p = ParametersOf(Source{RowsOf<typename decltype(tag)::Type>(args.x)}, args, rows, width);
    if (!args.rows.is_null()) {
      p.row_codes = MutableRowsOf<uint8_t>(args.rows.codes);
      p.row_scales = MutableRowsOf<float>(args.rows.scales);
    }
    if (!args.columns.is_null()) SetColumns(p, args.columns);
    Launch(stream, ShapeOf(scale_rows, TilesOf(args.tiles, width), kQuantizeThreads),
           quantize_kernel<Source>, p);
  });
}

void RequantizeColumns(Stream& stream, const RequantizeColumnsArgs& args) {
  const int64_t rows = args.rows.codes.extent(0), width = args.rows.codes.extent(1);
  auto p = ParametersOf(SourceOf(args.rows), args, rows, width);
  SetColumns(p, args.columns);
  Launch(stream,
         ShapeOf(args.columns.scales.extent(0), TilesOf(args.tiles, width), kQuantizeThreads),
         quantize_kernel<CodedSource>, p);
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
    Launch(stream,
           ShapeOf(p.num_row_tiles * p.num_column_tiles, args.w.extent(0), kQuantizeThreads),
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
