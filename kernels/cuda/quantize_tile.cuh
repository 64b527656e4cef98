// A tile of 128 x 128 numbers in the registers of a block of 256 threads, its largest magnitudes,
// and its codes, row by row or column by column. A thread has eight neighbouring columns of eight
// rows, 16 apart, so that half a warp has a row.
#pragma once

#include <cstdint>

#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"

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

template <typename T>
__device__ bool IsAligned(const T* p, int bytes) {
  return reinterpret_cast<uint64_t>(p) % bytes == 0;
}

// Up to eight neighbouring numbers; zeros in place of those from `count` on.
__device__ inline void Load8(const bfloat16* from, int count, float (&to)[kChunk]) {
  if (count == kChunk && IsAligned(from, 16)) {
    const uint4 raw = *reinterpret_cast<const uint4*>(from);
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      to[i] = __uint_as_float(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xffff0000u);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) to[i] = i < count ? ToFloat(from[i]) : 0.0f;
}
__device__ inline void Load8(const float* from, int count, float (&to)[kChunk]) {
  if (count == kChunk && IsAligned(from, 16)) {
    const auto* whole = reinterpret_cast<const float4*>(from);
    const float4 low = whole[0], high = whole[1];
    to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
    to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
    return;
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) to[i] = i < count ? from[i] : 0.0f;
}
__device__ inline uint2 LoadCodes8(const uint8_t* from, int count) {
  if (count == kChunk && IsAligned(from, 8)) return *reinterpret_cast<const uint2*>(from);
  uint32_t words[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    if (i < count) words[i / 4] |= uint32_t{from[i]} << (8 * (i % 4));
  }
  return make_uint2(words[0], words[1]);
}
__device__ inline void StoreCodes8(uint8_t* to, uint2 codes, int count) {
  if (count == kChunk && IsAligned(to, 8)) {
    *reinterpret_cast<uint2*>(to) = codes;
    return;
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    if (i < count) to[i] = static_cast<uint8_t>((i < 4 ? codes.x : codes.y) >> (8 * (i % 4)));
  }
}

// Which part of a tile a thread has.
struct TilePlace {
  int row, column;  // the first of each

  __device__ TilePlace()
      : row(static_cast<int>(threadIdx.x) / kRowThreads),
        column(static_cast<int>(threadIdx.x) % kRowThreads * kChunk) {}
  // Of the thread's eight columns, those that a tile of `width` columns has.
  __device__ int Count(int64_t width) const {
    const int64_t left = width - column;
    return left <= 0 ? 0 : left < kChunk ? static_cast<int>(left) : kChunk;
  }
};

__device__ inline float LargestOf(const float (&x)[kChunk]) {
  float amax = 0.0f;
#pragma unroll
  for (int i = 0; i < kChunk; ++i) amax = fmaxf(amax, fabsf(x[i]));
  return amax;
}
// Over the threads that share a row.
__device__ inline float LargestOfRow(float amax) {
#pragma unroll
  for (int offset = kRowThreads / 2; offset > 0; offset /= 2) {
    amax = fmaxf(amax, __shfl_xor_sync(kAllLanes, amax, offset));
  }
  return amax;
}

// Codes on their way from rows to columns. Words of four codes; a row's are exchanged by where the
// row lies, so that neither side has two lanes at one bank.
struct CodeTile {
  uint32_t words[kQuantTile * kQuantTile / 4];

  static __device__ int Place(int row, int word) {
    return row * (kQuantTile / 4) + (word ^ 4 * (row / 16));
  }
  __device__ void PutRow(int row, int column, uint2 codes) {
    *reinterpret_cast<uint2*>(&words[Place(row, column / 4)]) = codes;
  }
  // Rows 16 part to 16 part + 15 of columns 4 word to 4 word + 3: of each column, 16 codes.
  __device__ void TakeColumns(int part, int word, uint4 (&columns)[4]) const {
    uint32_t to[4][4];
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      uint32_t rows[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) rows[i] = words[Place(16 * part + 4 * q + i, word)];
      const uint32_t low01 = __byte_perm(rows[0], rows[1], 0x5140);
      const uint32_t low23 = __byte_perm(rows[2], rows[3], 0x5140);
      const uint32_t high01 = __byte_perm(rows[0], rows[1], 0x7362);
      const uint32_t high23 = __byte_perm(rows[2], rows[3], 0x7362);
      to[0][q] = __byte_perm(low01, low23, 0x5410);
      to[1][q] = __byte_perm(low01, low23, 0x7632);
      to[2][q] = __byte_perm(high01, high23, 0x5410);
      to[3][q] = __byte_perm(high01, high23, 0x7632);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) columns[j] = make_uint4(to[j][0], to[j][1], to[j][2], to[j][3]);
  }
};

// Writes a tile's columns, each to at(column), `rows` codes of it: 128 where the codes have room
// for whole tiles. Called by all threads once all rows are there.
template <typename At>
__device__ void StoreColumns(const CodeTile& codes, int64_t width, int64_t rows, const At& at) {
  constexpr int kParts = kQuantTile / 16;  // that make a column
  const int part = static_cast<int>(threadIdx.x) % kParts;
  const int word = static_cast<int>(threadIdx.x) / kParts;
  uint4 columns[4];
  codes.TakeColumns(part, word, columns);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int column = 4 * word + j;
    if (column >= width) return;
    uint8_t* to = at(column) + 16 * part;
    const int64_t count = rows - 16 * part;
    if (count >= 16 && IsAligned(to, 16)) {
      *reinterpret_cast<uint4*>(to) = columns[j];
      continue;
    }
    const uint32_t bytes[4] = {columns[j].x, columns[j].y, columns[j].z, columns[j].w};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if (i < count) to[i] = static_cast<uint8_t>(bytes[i / 4] >> (8 * (i % 4)));
    }
  }
}

}  // namespace sluice::kernels::cuda
