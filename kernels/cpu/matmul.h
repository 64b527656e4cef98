// Matrix products on the CPU; the contracts are those of kernels/ops/matmul.h, arguments already
// checked. Each call returns when its work is done.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/ops/matmul.h"

namespace sluice::kernels::cpu {

void PackMatrix(ThreadPool& pool, const PackMatrixArgs& args);
void Matmul(ThreadPool& pool, const MatmulArgs& args);
void PackedMatmul(ThreadPool& pool, const PackedMatmulArgs& args);
void GroupedMatmul(ThreadPool& pool, const GroupedMatmulArgs& args);
void GroupedWeightGradient(ThreadPool& pool, const GroupedWeightGradientArgs& args);

}  // namespace sluice::kernels::cpu
