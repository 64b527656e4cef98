// embedding on the CPU.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/cpu/ranges.h"
#include "kernels/cpu/target.h"
#include "kernels/ops/embedding.h"

namespace sluice::kernels::cpu {

struct EmbeddingTable {
  ByDType<EmbeddingBackwardArgs> backward;  // columns
};
EmbeddingTable EmbeddingTableOf(Target target);

void Embedding(ThreadPool& pool, const EmbeddingArgs& args);
void EmbeddingBackward(ThreadPool& pool, const EmbeddingBackwardArgs& args);

}  // namespace sluice::kernels::cpu
