// permute on the CPU.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/cpu/ranges.h"
#include "kernels/cpu/target.h"
#include "kernels/ops/permute.h"

namespace sluice::kernels::cpu {

struct PermuteTable {
  ByDType<CombineRowsArgs> combine;
  ByDType<CombineRowsBackwardArgs> combine_backward;
};
PermuteTable PermuteTableOf(Target target);

void GatherRows(ThreadPool& pool, const GatherRowsArgs& args);
void CombineRows(ThreadPool& pool, const CombineRowsArgs& args);
void CombineRowsBackward(ThreadPool& pool, const CombineRowsBackwardArgs& args);

}  // namespace sluice::kernels::cpu
