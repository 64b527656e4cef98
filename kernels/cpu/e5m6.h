// E5M6 rows on the CPU; the contracts are those of kernels/ops/e5m6.h, arguments already checked.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/ops/e5m6.h"

namespace sluice::kernels::cpu {

void PackE5m6Rows(ThreadPool& pool, const E5m6RowsArgs& args);
void UnpackE5m6Rows(ThreadPool& pool, const E5m6RowsArgs& args);

}  // namespace sluice::kernels::cpu
