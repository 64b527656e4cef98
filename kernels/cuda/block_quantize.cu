// E4M3 with a scale per tile, to the bit as docs/fp8.md says.
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/quantize_codes.cuh"
#include "kernels/cuda/quantize_tile.cuh"
#include "kernels/cuda/reduce.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 128;  // of the kernels that have a thread a column of a tile
static_assert(kThreads == kQuantTile);

// Elements as floats, whatever they are stored as.
template <typename T>
struct PlainSource {
  static constexpr bool kAlongRows = true;                // may be asked for
  static constexpr int kBlocks = sizeof(T) == 2 ? 4 : 2;  // of a multiprocessor
  Rows<const T> x;
  using Held = HeldNumbers<T>;
  __device__ void Load(const TileArea& area, int64_t, Held& to) const { LoadTile(x, area, to.x); }
};
struct CodedSource {
  static constexpr bool kAlongRows = false;
  static constexpr int kBlocks = 5;
  Rows<const uint8_t> codes;
  Rows<const float> scales;
  struct Held {
    Chunk<uint8_t, kChunk> x[kChunks];
    float scale[kChunks];
    template <bool kFinite>
    __device__ void Values(int i, float (&to)[kChunk]) const {
      Decode4<kFinite>(x[i].words[0], scale[i], to);
      Decode4<kFinite>(x[i].words[1], scale[i], to + 4);
    }
  };
  __device__ float At(int64_t row, int64_t column, int64_t tile) const {
    return Decode(codes[row][column]) * scales[row][tile];
  }
  __device__ void Load(const TileArea& area, int64_t tile, Held& to) const {
    LoadTile(codes, area, to.x);
    const TilePlace place;
    const float* scale = scales[area.rows.begin + place.row] + tile;
#pragma unroll
    for (int i = 0; i < kChunks; ++i, scale += kRowStep * scales.stride) {
      to.scale[i] = place.row + i * kRowStep < area.height() ? *scale : 0.0f;
    }
  }
};

template <typename Source>
struct QuantizeParameters {
  Source source;
  const int32_t* tiles;  // of the columns; null: every 128
  uint32_t num_tiles;
  RowTiles row_tiles;
  int64_t width;
  CodesOfTiles to;
};

// Block: a tile, neighbours along a row of scales first. Codes along rows, along columns, or both.
template <typename Source>
__global__ void __launch_bounds__(kQuantizeThreads, Source::kBlocks)
    quantize_kernel(const QuantizeParameters<Source> p) {
  __shared__ QuantizeShared shared;
  HeldTile<typename Source::Held> held;
  held.scale_row = blockIdx.x / p.num_tiles;
  held.tile = blockIdx.x % p.num_tiles;
  held.area.rows = p.row_tiles.TileOfScale(held.scale_row, &shared.rows);
  if (held.area.rows.begin == held.area.rows.end) return;
  held.area.columns = TileAt(p.tiles, held.tile, p.width);
  p.source.Load(held.area, held.tile, held.x);
  QuantizeTile<Source::kAlongRows>(p.to, held, shared);
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
__global__ void __launch_bounds__(kQuantizeThreads, PlainSource<T>::kBlocks)
    quantize_weight_kernel(const WeightParameters<const T> p) {
  __shared__ CodeTile swapped;
  __shared__ float partial[kQuantizeWarps];
  const int64_t expert = blockIdx.y;
  const int64_t row_tile = blockIdx.x / p.num_column_tiles;
  const int64_t column_tile = blockIdx.x % p.num_column_tiles;
  const TileArea area = {TileAt(p.row_tiles, row_tile, p.out), TileAt(nullptr, column_tile, p.in)};
  Chunk<T, kChunk> held[kChunks];
  LoadTile(Rows<const T>{p.w[expert], p.in}, area, held);
  float amax = 0.0f, zeros = 0.0f;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    float x[kChunk];
    ToFloats(held[i], x);
    amax = fmaxf(amax, LargestOf(x));
    zeros = AddZeros(zeros, x);
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
  const Rows<uint8_t> row_codes = {p.codes[expert], p.in};
  TakeForNew(held);
  ForFinite(zeros, [&](auto finite) {
    constexpr bool kFinite = decltype(finite)::value;
    const TilePlace place;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      float x[kChunk];
      ToFloats(held[i], x);
      const uint2 codes = Encode8<kFinite>(x, [&](int) { return inverse; });
      const Codes8 chunk = {codes.x, codes.y};
      if (transposes) swapped.PutRow(place.row + i * kRowStep, place.column, chunk);
      StoreTileRow(chunk, row_codes, area, i);
    }
  });
  if (!transposes) return;
  __syncthreads();
  uint8_t* to = p.transposed_codes[expert] + area.columns.begin * p.out + area.rows.begin;
  StoreColumns<uint8_t>(swapped, area.width(), area.height(), {to, p.out});
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

int64_t TilesOf(const ConstTensorView& tiles, int64_t extent) {
  return tiles.is_null() ? NumTiles(extent) : tiles.extent(0) - 1;
}

LaunchShape ShapeOf(int64_t blocks, int64_t blocks_y, int threads = kThreads) {
  return {.blocks = blocks,
          .threads = static_cast<unsigned>(threads),
          .shared_bytes = 0,
          .blocks_y = blocks_y};
}

// Of QuantizeArgs or RequantizeColumnsArgs; where the results go is set by the caller.
template <typename Source, typename Args>
QuantizeParameters<Source> ParametersOf(const Source& source, const Args& args, int64_t rows,
                                        int64_t width) {
  return {.source = source,
          .tiles = Bounds(args.tiles),
          .num_tiles = static_cast<uint32_t>(TilesOf(args.tiles, width)),
          .row_tiles = RowTilesOf(args.offsets, rows),
          .width = width,
          .to = {}};
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
  const int64_t scale_rows = NumScaleRows(args.offsets, rows);
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using Source = PlainSource<typename decltype(tag)::Type>;
    auto p = ParametersOf(Source{RowsOf<typename decltype(tag)::Type>(args.x)}, args, rows, width);
    p.to = CodesOf(args.options, args.rows, args.columns);
    Launch(stream, ShapeOf(scale_rows * p.num_tiles, 1, kQuantizeThreads), quantize_kernel<Source>,
           p);
  });
}

void RequantizeColumns(Stream& stream, const RequantizeColumnsArgs& args) {
  const int64_t rows = args.rows.codes.extent(0), width = args.rows.codes.extent(1);
  auto p = ParametersOf(SourceOf(args.rows), args, rows, width);
  p.to = CodesOf(args.options, {}, args.columns);
  Launch(stream, ShapeOf(args.columns.scales.extent(0) * p.num_tiles, 1, kQuantizeThreads),
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
