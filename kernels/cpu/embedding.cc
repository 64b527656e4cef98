#include "kernels/cpu/embedding.h"

#include <algorithm>

#include "kernels/cpu/op_table.h"
#include "kernels/cpu/rows.h"

#define SLUICE_TARGET_FILE "kernels/cpu/embedding-inl.h"
#include "kernels/cpu/foreach_target.h"

namespace sluice::kernels::cpu {

EmbeddingTable EmbeddingTableOf(Target target) { return SLUICE_TABLE_OF(kEmbeddingTable, target); }

void Embedding(ThreadPool& pool, const EmbeddingArgs& args) {
  CheckIndices(args.tokens, args.table.extent(0));
  const int64_t width = args.y.extent(1);
  const int32_t* tokens = args.tokens.data<int32_t>();
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, width));
  pool.ParallelRanges(args.y.extent(0), grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) CopyRow(args.table, tokens[t], args.y, t, width);
  });
}

// By columns: each thread adds all tokens in order to its own.
void EmbeddingBackward(ThreadPool& pool, const EmbeddingBackwardArgs& args) {
  CheckIndices(args.tokens, args.dtable.extent(0));
  constexpr int64_t kColumnsPerTask = 128;
  RunColumns(pool, args.dtable.extent(1), kColumnsPerTask,
             Table().embedding.backward[args.dy.dtype()], args);
}

}  // namespace sluice::kernels::cpu
