// cast on the CPU.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/cpu/ranges.h"
#include "kernels/cpu/target.h"
#include "kernels/ops/cast.h"

namespace sluice::kernels::cpu {

struct CastTable {
  // By dtype of `from`; elements [begin, end) of contiguous tensors, or rows of strided ones.
  ByDType<CastArgs> to_f32, to_bf16;
  ByDType<CastArgs> rows_to_f32, rows_to_bf16;
  ByDType<AddArgs> add;
};
CastTable CastTableOf(Target target);

void Cast(ThreadPool& pool, const CastArgs& args);
void Fill(ThreadPool& pool, const TensorView& to, double value);
void Add(ThreadPool& pool, const AddArgs& args);

}  // namespace sluice::kernels::cpu
