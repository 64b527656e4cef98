// adamw on the CPU.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/cpu/ranges.h"
#include "kernels/cpu/target.h"
#include "kernels/ops/adamw.h"

namespace sluice::kernels::cpu {

struct AdamWTable {
  ByDType<AdamWArgs> without_value, value_f32, value_bf16;  // by dtype of the moments
  RangeFunction<SumSquaresArgs> sum_squares = nullptr;      // blocks of kSumSquaresBlock
};
AdamWTable AdamWTableOf(Target target);

inline constexpr int64_t kSumSquaresBlock = 4096, kSumSquaresGroup = 256;

void AdamW(ThreadPool& pool, const AdamWArgs& args);
void SumSquares(ThreadPool& pool, const SumSquaresArgs& args);

}  // namespace sluice::kernels::cpu
