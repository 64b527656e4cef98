// How the ops that quantise are cut for threads: by the row tiles of every group.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/core/check.h"
#include "kernels/core/thread_pool.h"
#include "kernels/cpu/block_quantize.h"

namespace sluice::kernels::cpu {

// Calls body(tile) for every row tile of every group.
template <typename Body>
void ForEachRowTile(ThreadPool& pool, int64_t rows, const ConstTensorView& offsets,
                    const Body& body) {
  thread_local std::vector<RowTile> tiles;
  tiles.clear();
  const int64_t groups = offsets.is_null() ? 1 : offsets.extent(0) - 1;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = offsets.is_null() ? 0 : offsets.data<int32_t>()[g];
    const int64_t end = offsets.is_null() ? rows : offsets.data<int32_t>()[g + 1];
    CHECK(begin <= end && end <= rows) << "group " << g << " ends at row " << end << " of " << rows;
    int64_t index = begin / kQuantTile + g;
    for (int64_t r = begin; r < end; r += kQuantTile) {
      tiles.push_back({r, std::min(end, r + kQuantTile), index++});
    }
  }
  const std::vector<RowTile>& all = tiles;  // this thread's: workers see it through the reference
  pool.ParallelFor(static_cast<int64_t>(all.size()),
                   [&](int64_t i) { body(all[static_cast<size_t>(i)]); });
}

}  // namespace sluice::kernels::cpu
