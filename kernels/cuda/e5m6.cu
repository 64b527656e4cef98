// Rows in E5M6, to the byte as kernels/ops/e5m6.h says: a block a tile, a thread a pair of columns.
#include "kernels/core/e5m6.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = kE5m6Tile / 2;

// Grid: rows, tiles.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    pack_e5m6_rows_kernel(Rows<const T> x, Rows<uint8_t> packed, int64_t width, int64_t bytes) {
  __shared__ float partial[kThreads / kWarp];
  const int64_t row = blockIdx.x, tile = blockIdx.y, column = tile * kE5m6Tile + 2 * threadIdx.x;
  const bool is_inside = column < width;
  const float a = is_inside ? ToFloat(x[row][column]) : 0.0f;
  const float b = is_inside ? ToFloat(x[row][column + 1]) : 0.0f;
  const float amax = BlockReduce<Max>(fmaxf(fabsf(a), fabsf(b)), partial);
  const uint32_t bits = __float_as_uint(fmaxf(amax / kMaxE5M6, 0x1p-126f));
  const uint32_t scale = amax == 0.0f ? 127u << 23 : (bits + 0x7fffffu) & 0x7f800000u;
  uint8_t* scales = packed[row] + width / 2 * 3;
  if (threadIdx.x == 0) scales[tile] = static_cast<uint8_t>(scale >> 23);
  if (tile == 0) {
    for (int64_t i = width / 2 * 3 + gridDim.y + threadIdx.x; i < bytes; i += kThreads) {
      packed[row][i] = 0;
    }
  }
  if (!is_inside) return;
  const float inverse = 1.0f / __uint_as_float(scale);
  const uint32_t first = ToE5M6(a, inverse), second = ToE5M6(b, inverse);
  uint8_t* to = packed[row] + column / 2 * 3;
  to[0] = static_cast<uint8_t>(first);
  to[1] = static_cast<uint8_t>(first >> 8 | (second & 15u) << 4);
  to[2] = static_cast<uint8_t>(second >> 4);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    unpack_e5m6_rows_kernel(Rows<const uint8_t> packed, Rows<T> x, int64_t width) {
  const int64_t row = blockIdx.x, tile = blockIdx.y, column = tile * kE5m6Tile + 2 * threadIdx.x;
  if (column >= width) return;
  const uint8_t* from = packed[row] + column / 2 * 3;
  const uint32_t scale_bits = packed[row][width / 2 * 3 + tile];
  const float scale = __uint_as_float(scale_bits << 23);
  const uint32_t low = from[0], middle = from[1], high = from[2];
  x[row][column] = FromFloat<T>(FromE5M6(low | (middle & 15u) << 8) * scale);
  x[row][column + 1] = FromFloat<T>(FromE5M6(middle >> 4 | high << 4) * scale);
}

LaunchShape ShapeOf(int64_t rows, int64_t width) {
  return {.blocks = rows,
          .threads = kThreads,
          .shared_bytes = 0,
          .blocks_y = CeilDiv(width, kE5m6Tile)};
}

}  // namespace

void PackE5m6Rows(Stream& stream, const E5m6RowsArgs& args) {
  const int64_t rows = args.x.extent(0), width = args.x.extent(1);
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Launch(stream, ShapeOf(rows, width), pack_e5m6_rows_kernel<T>, RowsOf<T>(args.x),
           MutableRowsOf<uint8_t>(args.packed), width, args.packed.extent(1));
  });
}

void UnpackE5m6Rows(Stream& stream, const E5m6RowsArgs& args) {
  const int64_t rows = args.x.extent(0), width = args.x.extent(1);
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Launch(stream, ShapeOf(rows, width), unpack_e5m6_rows_kernel<T>, RowsOf<uint8_t>(args.packed),
           MutableRowsOf<T>(args.x), width);
  });
}

}  // namespace sluice::kernels::cuda
