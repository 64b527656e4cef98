// Ops of low-rank adapters on the CPU.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/cpu/ranges.h"
#include "kernels/cpu/target.h"
#include "kernels/ops/low_rank.h"

namespace sluice::kernels::cpu {

struct LowRankTable {
  ByDType<ScaledAddArgs> scale, scaled_add;  // over rows
};
LowRankTable LowRankTableOf(Target target);

void ScaledAdd(ThreadPool& pool, const ScaledAddArgs& args);
void Dropout(ThreadPool& pool, const DropoutArgs& args);
void RowIds(ThreadPool& pool, const RowIdsArgs& args);
void SplitRowIds(ThreadPool& pool, const SplitRowIdsArgs& args);
void ExpertRowIds(ThreadPool& pool, const ExpertRowIdsArgs& args);

}  // namespace sluice::kernels::cpu
