// rope on the CPU.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/cpu/ranges.h"
#include "kernels/cpu/target.h"
#include "kernels/ops/rope.h"

namespace sluice::kernels::cpu {

struct RopeTable {
  ByDType<RopeArgs> interleaved, half;
  ByDType<SumHeadsArgs> sum_heads;
};
RopeTable RopeTableOf(Target target);

void Rope(ThreadPool& pool, const RopeArgs& args);
void SumHeads(ThreadPool& pool, const SumHeadsArgs& args);
void BroadcastHeads(ThreadPool& pool, const BroadcastHeadsArgs& args);

}  // namespace sluice::kernels::cpu
