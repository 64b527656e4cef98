// reduce_rows on the CPU.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/ops/reduce_rows.h"

namespace sluice::kernels::cpu {

void ReduceRows(ThreadPool& pool, const ReduceRowsArgs& args);

}  // namespace sluice::kernels::cpu
