// Attention by mma.sync: which tokens a block works on, tiles of heads in shared memory, and the
// operands that a warp takes out of them.
//
// A tile is kAttentionTile tokens of one document, counted from its first: so a document's result
// does not depend on where it lies in the batch. Rows of a tile that belong to no token and columns
// between a head's width and the next multiple of 16 hold zeros.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/ptx.cuh"

namespace sluice::kernels::cuda {

inline constexpr int kAttentionTile = 64;
inline constexpr float kLog2E = 1.44269504088896341f;

// A tile of a document: tokens [begin + first, begin + first + kAttentionTile), as far as the
// document goes.
struct DocumentTile {
  int begin = 0, length = 0;  // of the document; length 0: there is no such tile
  int first = 0;
  __device__ int rows_at(int from) const { return min(kAttentionTile, length - from); }
};

// Document s has the tile numbers from starts[s] / kTile + s on, which are enough for it.
template <int kTile = kAttentionTile>
__device__ DocumentTile TileAt(const int32_t* starts, int64_t sequences, int64_t number) {
  int64_t low = 0, high = sequences;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (starts[middle] / kTile + middle <= number ? low : high) = middle;
  }
  DocumentTile tile;
  tile.begin = starts[low];
  const int64_t first = (number - low - tile.begin / kTile) * kTile;
  const int length = starts[low + 1] - tile.begin;
  if (first < length) {
    tile.first = static_cast<int>(first);
    tile.length = length;
  }
  return tile;
}

inline int64_t NumAttentionTiles(int64_t tokens, int64_t sequences, int tile = kAttentionTile) {
  return sequences == 0 ? 0 : tokens / tile + sequences;
}

// A matrix in shared memory. The stride is an odd multiple of 8 elements: eight rows that are read
// together lie in different banks.
struct SharedMatrix {
  bfloat16* data;
  int stride;
  __device__ bfloat16* At(int row, int column) const { return data + row * stride + column; }
};

__host__ __device__ constexpr int PaddedWidth(int64_t width) {
  return static_cast<int>((width + 15) / 16 * 16);
}
__host__ __device__ constexpr int SharedStride(int64_t width) { return PaddedWidth(width) + 8; }
// Bytes of a tile of heads of that width.
__host__ __device__ constexpr int TileBytes(int64_t width) {
  return kAttentionTile * SharedStride(width) * static_cast<int>(sizeof(bfloat16));
}

// The next tile of dynamic shared memory.
__device__ inline SharedMatrix TakeTile(uint8_t*& memory, int64_t width) {
  const SharedMatrix tile = {reinterpret_cast<bfloat16*>(memory), SharedStride(width)};
  memory += TileBytes(width);
  return tile;
}

// Eight elements, or the first `count` of them and zeros.
__device__ inline uint4 LoadEight(const bfloat16* from, int count, bool is_aligned) {
  if (is_aligned) {
    return count > 0 ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
  }
  uint32_t words[4] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t bits = i < count ? __bfloat16_as_ushort(from[i]) : 0u;
    words[i / 2] |= bits << (16 * (i % 2));
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Row r of the tile = token `token + r` of the head for r < rows, zeros for the others.
__device__ inline void LoadTile(const SharedMatrix& tile, const Heads<const bfloat16>& from,
                                int64_t token, int64_t head, int rows) {
  const int width = static_cast<int>(from.width), eights = PaddedWidth(width) / 8;
  for (int i = threadIdx.x; i < kAttentionTile * eights; i += static_cast<int>(blockDim.x)) {
    const int row = i / eights, column = i % eights * 8;
    uint4 x = make_uint4(0, 0, 0, 0);
    if (row < rows) {
      x = LoadEight(from.At(token + row, head) + column, width - column, from.is_aligned);
    }
    *reinterpret_cast<uint4*>(tile.At(row, column)) = x;
  }
}

// --- operands of mma.sync (m16n8k16), all of them from a place in a SharedMatrix

// a[i][k] = at[i][k], 16 x 16.
__device__ inline void LoadA(uint32_t (&a)[4], const SharedMatrix& at) {
  const int lane = threadIdx.x % kWarp;
  LoadMatrices(a, at.At(lane % 16, lane / 16 * 8));
}
// a[i][k] = at[k][i].
__device__ inline void LoadTransposedA(uint32_t (&a)[4], const SharedMatrix& at) {
  const int lane = threadIdx.x % kWarp;
  LoadTransposed(a, at.At(lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8));
}
// b[k][j] = at[j][k], for 16 columns j.
__device__ inline void LoadB(uint32_t (&b)[2][2], const SharedMatrix& at) {
  const int lane = threadIdx.x % kWarp;
  uint32_t x[4];
  LoadMatrices(x, at.At(lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8));
  b[0][0] = x[0], b[0][1] = x[1], b[1][0] = x[2], b[1][1] = x[3];
}
// b[k][j] = at[k][j], for 16 columns j.
__device__ inline void LoadTransposedB(uint32_t (&b)[2][2], const SharedMatrix& at) {
  const int lane = threadIdx.x % kWarp;
  uint32_t x[4];
  LoadTransposed(x, at.At(lane % 16, lane / 16 * 8));
  b[0][0] = x[0], b[0][1] = x[1], b[1][0] = x[2], b[1][1] = x[3];
}

__device__ inline SharedMatrix From(const SharedMatrix& matrix, int row, int column) {
  return {matrix.At(row, column), matrix.stride};
}

// Sums of 16 rows and 8 columns of a warp: [0..1] of row lane / 4, [2..3] of the row 8 below, at
// columns 2 (lane % 4) and the next.
using Sums = float[4];

// sums[16 x 8 kColumns] += rows a[16 x width] times b[8 kColumns x width], both along the width.
template <int kColumns>
__device__ void MultiplyAlongWidth(Sums (&sums)[kColumns], const SharedMatrix& a,
                                   const SharedMatrix& b, int padded_width) {
  static_assert(kColumns % 2 == 0);
  for (int k = 0; k < padded_width; k += 16) {
    uint32_t a_part[4];
    LoadA(a_part, From(a, 0, k));
#pragma unroll
    for (int j = 0; j < kColumns; j += 2) {
      uint32_t b_part[2][2];
      LoadB(b_part, From(b, 8 * j, k));
      MultiplyAccumulate(sums[j], a_part, b_part[0]);
      MultiplyAccumulate(sums[j + 1], a_part, b_part[1]);
    }
  }
}

__device__ inline uint32_t PackPair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Stores columns `column` and the next of a row of `to`, as far as there are any.
__device__ inline void StorePair(const Heads<bfloat16>& to, int64_t token, int64_t head, int column,
                                 float low, float high) {
  bfloat16* at = to.At(token, head) + column;
  if (to.is_aligned) {
    if (column < to.width) *reinterpret_cast<uint32_t*>(at) = PackPair(low, high);
    return;
  }
  if (column < to.width) at[0] = FromFloat<bfloat16>(low);
  if (column + 1 < to.width) at[1] = FromFloat<bfloat16>(high);
}

}  // namespace sluice::kernels::cuda
