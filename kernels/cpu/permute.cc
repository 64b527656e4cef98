#include "kernels/cpu/permute.h"

#include <algorithm>

#include "kernels/cpu/op_table.h"
#include "kernels/cpu/rows.h"

#define SLUICE_TARGET_FILE "kernels/cpu/permute-inl.h"
#include "kernels/cpu/foreach_target.h"

namespace sluice::kernels::cpu {

PermuteTable PermuteTableOf(Target target) { return SLUICE_TABLE_OF(kPermuteTable, target); }

void GatherRows(ThreadPool& pool, const GatherRowsArgs& args) {
  CheckIndices(args.index, args.x.extent(0));
  const int64_t width = args.y.extent(1);
  const int32_t* index = args.index.data<int32_t>();
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, width));
  pool.ParallelRanges(args.y.extent(0), grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) CopyRow(args.x, index[r], args.y, r, width);
  });
}

void CombineRows(ThreadPool& pool, const CombineRowsArgs& args) {
  CheckIndices(args.row_of, args.rows.extent(0));
  RunRanges(pool, args.y.extent(0), args.y.extent(1) * (args.row_of.extent(1) + 1),
            Table().permute.combine[args.y.dtype()], args);
}

void CombineRowsBackward(ThreadPool& pool, const CombineRowsBackwardArgs& args) {
  CheckIndices(args.row_of, args.rows.extent(0));
  RunRanges(pool, args.dy.extent(0), 2 * args.dy.extent(1) * args.row_of.extent(1),
            Table().permute.combine_backward[args.dy.dtype()], args);
}

}  // namespace sluice::kernels::cpu
