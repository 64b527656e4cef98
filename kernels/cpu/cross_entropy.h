// cross_entropy on the CPU.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/cpu/ranges.h"
#include "kernels/cpu/target.h"
#include "kernels/ops/cross_entropy.h"

namespace sluice::kernels::cpu {

struct CrossEntropyTable {
  ByDType<CrossEntropyArgs> rows;  // by dtype of dlogits
};
CrossEntropyTable CrossEntropyTableOf(Target target);

void CrossEntropy(ThreadPool& pool, const CrossEntropyArgs& args);

}  // namespace sluice::kernels::cpu
