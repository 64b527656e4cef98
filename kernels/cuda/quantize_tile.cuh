// A tile of 128 x 128 numbers in the registers of a block of 256 threads, and its largest
// magnitudes. A thread has eight neighbouring columns of eight rows, 16 apart, so that half a warp
// has a row.
#pragma once

#include <cstdint>

#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/turn_tile.cuh"

namespace sluice::kernels::cuda {

inline constexpr int kQuantizeThreads = 256, kQuantizeWarps = kQuantizeThreads / kWarp;
inline constexpr int kChunk = 8;                                 // columns of a thread
inline constexpr int kChunks = 8;                                // rows of a thread
inline constexpr int kRowThreads = kQuantTile / kChunk;          // threads that share a row
inline constexpr int kRowStep = kQuantizeThreads / kRowThreads;  // rows between a thread's
static_assert(kRowStep * kChunks == kQuantTile && kRowThreads == kWarp / 2);

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
  // The tile of a row of scales; empty for one that belongs to none. Asked by a whole block, which
  // looks through the groups side by side.
  __device__ Range TileOfScale(int64_t scale_row, Range* shared) const {
    if (offsets == nullptr) return TileAt(nullptr, scale_row, rows);
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

inline const int32_t* Bounds(const ConstTensorView& view) {
  return static_cast<const int32_t*>(view.raw_data());
}
inline RowTiles RowTilesOf(const ConstTensorView& offsets, int64_t rows) {
  return {Bounds(offsets), offsets.is_null() ? 1 : offsets.extent(0) - 1, rows};
}
// Rows of scales that may have a tile; a block is launched for each.
inline int64_t NumScaleRows(const ConstTensorView& offsets, int64_t rows) {
  return offsets.is_null() ? NumTiles(rows) : NumColumnTiles(rows, offsets.extent(0) - 1);
}

// Which part of a tile a thread has.
struct TilePlace {
  int row, column;  // the first of each

  __device__ TilePlace()
      : row(static_cast<int>(threadIdx.x / kRowThreads % kRowStep)),
        column(static_cast<int>(threadIdx.x % kRowThreads * kChunk)) {}
};

// The rows and columns of a tile.
struct TileArea {
  Range rows, columns;

  __device__ int height() const { return static_cast<int>(rows.end - rows.begin); }
  __device__ int width() const { return static_cast<int>(columns.end - columns.begin); }
  // This thread's part of row i of the rows it has.
  template <typename T>
  __device__ Part<T> At(Rows<T> x, int i) const {
    const TilePlace place;
    T* first = x[rows.begin] + columns.begin + place.row * x.stride + place.column;
    const bool is_there = place.row + i * kRowStep < height();
    return {first + i * (kRowStep * x.stride), is_there ? width() - place.column : 0};
  }
  // All those parts of x lie at multiples of their size, and are whole or empty.
  template <typename T>
  __device__ bool IsCut(Rows<T> x) const {
    constexpr int kBytes = alignof(Chunk<std::remove_const_t<T>, kChunk>);
    return IsAligned(x[rows.begin] + columns.begin, kBytes) &&
           x.stride * static_cast<int64_t>(sizeof(T)) % kBytes == 0 && width() % kChunk == 0;
  }
};

// This thread's part of a tile, zeros where the tile ends. Values stay as they were loaded (x may
// be codes) until they are needed: loads then do not wait for each other.
template <typename T>
__device__ void LoadTile(Rows<const T> x, const TileArea& area, Chunk<T, kChunk> (&to)[kChunks]) {
  LoadChunks(to, area.IsCut(x), [&](int i) { return area.At(x, i); });
}
using Codes8 = Chunk<uint8_t, kChunk>;
__device__ inline void StoreTileRow(const Codes8& codes, Rows<uint8_t> to, const TileArea& area,
                                    int i) {
  const Part<uint8_t> part = area.At(to, i);
  StoreChunk(codes, part.at, part.left, area.IsCut(to));
}

// Has the compiler forget what it made of the values, which it would keep beside them.
template <typename T>
__device__ void TakeForNew(Chunk<T, kChunk> (&x)[kChunks]) {
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
#pragma unroll
    for (int w = 0; w < Chunk<T, kChunk>::kWords; ++w) asm volatile("" : "+r"(x[i].words[w]));
  }
}

__device__ inline float LargestOf(const float (&x)[kChunk]) {
  float amax = 0.0f;
#pragma unroll
  for (int i = 0; i < kChunk; ++i) amax = fmaxf(amax, fabsf(x[i]));
  return amax;
}
// Stays 0 as long as all x are finite.
__device__ inline float AddZeros(float sum, const float (&x)[kChunk]) {
#pragma unroll
  for (int i = 0; i < kChunk; ++i) sum = __fmaf_rn(x[i], 0.0f, sum);
  return sum;
}

// Of the upper or lower half of x, the larger of this lane's and of what the lane `step` away has.
template <int kNum>
__device__ void LargestOfHalf(float (&x)[kNum], int num, int step, bool is_upper) {
#pragma unroll
  for (int k = 0; k < kNum / 2; ++k) {
    if (k >= num / 2) break;
    const float keep = is_upper ? x[num / 2 + k] : x[k], send = is_upper ? x[k] : x[num / 2 + k];
    x[k] = fmaxf(keep, __shfl_xor_sync(kAllLanes, send, step));
  }
}
// Over the 16 threads that share rows: of row i of each in lanes i and i + 8 of them.
__device__ inline float LargestOfRows(float (&x)[kChunks]) {
  const int lane = threadIdx.x;
  LargestOfHalf(x, 8, 4, (lane & 4) != 0);
  LargestOfHalf(x, 4, 2, (lane & 2) != 0);
  LargestOfHalf(x, 2, 1, (lane & 1) != 0);
  return fmaxf(x[0], __shfl_xor_sync(kAllLanes, x[0], 8));
}

using CodeTile = TurnTile<1>;
static_assert(CodeTile::kSide == kQuantTile && kTurnThreads == kQuantizeThreads);

}  // namespace sluice::kernels::cuda
