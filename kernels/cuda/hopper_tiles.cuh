// Which tile of the result a thread block works on next. The warps that copy and those that
// multiply each walk the same list.
#pragma once

#include <cstdint>

#include "kernels/cuda/hopper_matmul_config.h"

namespace sluice::kernels::cuda {

struct TileGrid {
  MatmulGrouping grouping = MatmulGrouping::kDense;
  int m = 0, n = 0;       // of the result; kRows: m of all groups
  int num_steps = 0;      // along K, 128 bytes each; kContracted: not used
  int steps_of_part = 0;  // kFp8Blocks: of a part of K
  int num_groups = 1;
  int b_group_rows = 0;              // kRows: from b[e] to b[e + 1]
  const int32_t* offsets = nullptr;  // [E + 1]; kRows: rows of a. kContracted: along K
  // kContracted: along K group g lies where its tiles of 128 do, from 128 (offsets[g] / 128 + g) on
  // and padded with zeros (kernels/ops/block_quantize.h); else at offsets[g] itself.
  bool pads_groups = false;
};

struct Tile {
  int group = 0;
  int row = 0, column = 0;         // first of the tile in a and the result; in b[group]
  int row_end = 0;                 // rows from here on belong to others
  int first_k = 0, num_steps = 0;  // element along K
  int k_end = 0;                   // elements from here on belong to others
};

template <int kBlockM, int kBlockN, int kStepElements>
class TileWalk {
 public:
  __device__ TileWalk(const TileGrid& grid, int block, int num_blocks)
      : grid_(grid),
        next_(block),
        num_blocks_(num_blocks),
        columns_((grid.n + kBlockN - 1) / kBlockN) {}

  // False at the end.
  __device__ bool Next(Tile& tile) {
    for (; group_ < grid_.num_groups; ++group_) {
      const int begin = grid_.grouping == MatmulGrouping::kRows ? grid_.offsets[group_] : 0;
      const int end = grid_.grouping == MatmulGrouping::kRows ? grid_.offsets[group_ + 1] : grid_.m;
      const int rows = (end - begin + kBlockM - 1) / kBlockM;
      const int tiles = rows * columns_;
      if (next_ - before_ < tiles) {
        Place(next_ - before_, rows, begin, end, tile);
        next_ += num_blocks_;
        return true;
      }
      before_ += tiles;
    }
    return false;
  }

 private:
  // Bands of rows, column after column inside: blocks that run together share rows of a and of b.
  __device__ void Place(int index, int rows, int begin, int end, Tile& tile) const {
    constexpr int kBand = 16;
    const int in_band = kBand * columns_;
    const int band = index / in_band;
    const int band_rows = min(rows - band * kBand, kBand);
    const int inside = index - band * in_band;
    tile.group = group_;
    tile.row = begin + (band * kBand + inside % band_rows) * kBlockM;
    tile.column = inside / band_rows * kBlockN;
    tile.row_end = end;
    tile.first_k = 0;
    tile.num_steps = grid_.num_steps;
    tile.k_end = grid_.num_steps * kStepElements;
    if (grid_.grouping == MatmulGrouping::kContracted) {
      const int k_begin = grid_.offsets[group_], count = grid_.offsets[group_ + 1] - k_begin;
      tile.first_k = grid_.pads_groups ? 128 * (k_begin / 128 + group_) : k_begin;
      tile.num_steps = (count + kStepElements - 1) / kStepElements;
      tile.k_end = tile.first_k + count;
    }
  }

  const TileGrid& grid_;
  int next_, before_ = 0;  // index of the next tile; tiles of the groups before group_
  const int num_blocks_, columns_;
  int group_ = 0;
};

}  // namespace sluice::kernels::cuda
