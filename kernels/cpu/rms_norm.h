// rms_norm on the CPU.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/cpu/ranges.h"
#include "kernels/cpu/target.h"
#include "kernels/ops/rms_norm.h"

namespace sluice::kernels::cpu {

struct RmsNormTable {
  ByDType<RmsNormArgs> forward;
  ByDType<RmsNormBackwardInputArgs> backward_input;
  ByDType<RmsNormBackwardWeightArgs> backward_weight;  // columns
};
RmsNormTable RmsNormTableOf(Target target);

void RmsNorm(ThreadPool& pool, const RmsNormArgs& args);
void RmsNormBackwardInput(ThreadPool& pool, const RmsNormBackwardInputArgs& args);
void RmsNormBackwardWeight(ThreadPool& pool, const RmsNormBackwardWeightArgs& args);

}  // namespace sluice::kernels::cpu
