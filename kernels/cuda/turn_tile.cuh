// A square tile on its way from rows to columns, in shared memory: 128 bytes a row, so 128 x 128
// codes, 64 x 64 of two bytes or 32 x 32 of four. Called by blocks of 256 threads.
#pragma once

#include <cstdint>

#include "kernels/cuda/chunk.cuh"

namespace sluice::kernels::cuda {

inline constexpr int kTurnThreads = 256;

// A row's words of four bytes are exchanged by where the row lies, so that neither side has two
// lanes at one bank.
template <int kBytes>
struct TurnTile {
  static constexpr int kSide = 128 / kBytes;
  static constexpr int kPartRows = 16 / kBytes;     // that make 16 bytes of a column
  static constexpr int kParts = kSide / kPartRows;  // of a column
  static constexpr int kWordColumns = 4 / kBytes;   // of a word
  static_assert(kParts * kSide / kWordColumns == kTurnThreads);
  uint32_t words[kSide * 32];

  static __device__ int Place(int row, int word) {
    return row * 32 + (word ^ 4 * (row / kPartRows));
  }
  // From a column that is a multiple of the chunk's.
  template <typename T, int kCount>
  __device__ void PutRow(int row, int column, const Chunk<T, kCount>& chunk) {
    static_assert(sizeof(T) == kBytes);
    *reinterpret_cast<Chunk<T, kCount>*>(&words[Place(row, column / kWordColumns)]) = chunk;
  }
  // 16 bytes of each of the columns that lie in a word: those of rows kPartRows part and on.
  __device__ void TakeColumns(int part, int word, uint4 (&columns)[kWordColumns]) const {
    uint32_t rows[kPartRows], to[kWordColumns][4];
#pragma unroll
    for (int i = 0; i < kPartRows; ++i) rows[i] = words[Place(kPartRows * part + i, word)];
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      if constexpr (kBytes == 4) {
        to[0][q] = rows[q];
      } else if constexpr (kBytes == 2) {
        to[0][q] = __byte_perm(rows[2 * q], rows[2 * q + 1], 0x5410);
        to[1][q] = __byte_perm(rows[2 * q], rows[2 * q + 1], 0x7632);
      } else {
        const uint32_t low01 = __byte_perm(rows[4 * q], rows[4 * q + 1], 0x5140);
        const uint32_t low23 = __byte_perm(rows[4 * q + 2], rows[4 * q + 3], 0x5140);
        const uint32_t high01 = __byte_perm(rows[4 * q], rows[4 * q + 1], 0x7362);
        const uint32_t high23 = __byte_perm(rows[4 * q + 2], rows[4 * q + 3], 0x7362);
        to[0][q] = __byte_perm(low01, low23, 0x5410);
        to[1][q] = __byte_perm(low01, low23, 0x7632);
        to[2][q] = __byte_perm(high01, high23, 0x5410);
        to[3][q] = __byte_perm(high01, high23, 0x7632);
      }
    }
#pragma unroll
    for (int j = 0; j < kWordColumns; ++j) {
      columns[j] = make_uint4(to[j][0], to[j][1], to[j][2], to[j][3]);
    }
  }
};

// Writes the first `width` columns, each a row of `to`, `rows` elements of it. Called by all
// threads once all rows are there.
template <typename T>
__device__ void StoreColumns(const TurnTile<sizeof(T)>& tile, int64_t width, int64_t rows,
                             Rows<T> to) {
  using Tile = TurnTile<sizeof(T)>;
  const int part = static_cast<int>(threadIdx.x % Tile::kParts);
  const int word = static_cast<int>(threadIdx.x / Tile::kParts);
  uint4 columns[Tile::kWordColumns];
  tile.TakeColumns(part, word, columns);
  const int64_t count = rows - Tile::kPartRows * part;
  const bool is_whole = count >= Tile::kPartRows && IsAligned(to.data, 16) &&
                        to.stride * static_cast<int64_t>(sizeof(T)) % 16 == 0;
  T* at = to[Tile::kWordColumns * word] + Tile::kPartRows * part;
#pragma unroll
  for (int j = 0; j < Tile::kWordColumns; ++j, at += to.stride) {
    if (Tile::kWordColumns * word + j >= width) return;
    StoreChunk(__builtin_bit_cast(Chunk<T>, columns[j]), at, count, is_whole);
  }
}

}  // namespace sluice::kernels::cuda
