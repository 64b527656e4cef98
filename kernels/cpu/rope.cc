#include "kernels/cpu/rope.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/op_table.h"
#include "kernels/cpu/rows.h"

#define SLUICE_TARGET_FILE "kernels/cpu/rope-inl.h"
#include "kernels/cpu/foreach_target.h"

namespace sluice::kernels::cpu {

RopeTable RopeTableOf(Target target) { return SLUICE_TABLE_OF(kRopeTable, target); }

void Rope(ThreadPool& pool, const RopeArgs& args) {
  CheckIndices(args.positions, args.cos.extent(0));
  const RopeTable& table = Table().rope;
  const bool interleaved = args.layout == RopeLayout::kInterleaved;
  RunRanges(pool, args.positions.extent(0), 2 * args.cos.extent(1) * args.num_heads,
            (interleaved ? table.interleaved : table.half)[args.x.dtype()], args);
}

void SumHeads(ThreadPool& pool, const SumHeadsArgs& args) {
  RunRanges(pool, args.y.extent(0), args.y.extent(1) * args.num_heads,
            Table().rope.sum_heads[args.x.dtype()], args);
}

void BroadcastHeads(ThreadPool& pool, const BroadcastHeadsArgs& args) {
  const size_t size = SizeOf(args.x.dtype()), bytes = size * static_cast<size_t>(args.x.extent(1));
  const char* from = static_cast<const char*>(args.x.raw_data());
  char* to = static_cast<char*>(args.y.raw_mutable_data());
  const int64_t elements_each = args.x.extent(1) * args.num_heads;
  const int64_t grain =
      std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, elements_each));
  pool.ParallelRanges(args.x.extent(0), grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const char* row = from + static_cast<size_t>(t * args.x.row_stride()) * size;
      for (int64_t a = 0; a < args.num_heads; ++a) {
        const int64_t offset = t * args.y.row_stride() + a * args.head_stride;
        std::memcpy(to + static_cast<size_t>(offset) * size, row, bytes);
      }
    }
  });
}

}  // namespace sluice::kernels::cpu
