// dequantized_matmul on the CPU.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/ops/dequantized_matmul.h"

namespace sluice::kernels::cpu {

void DequantizedMatmul(ThreadPool& pool, const DequantizedMatmulArgs& args);

}  // namespace sluice::kernels::cpu
