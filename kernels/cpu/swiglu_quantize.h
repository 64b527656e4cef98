// swiglu_quantize on the CPU.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/ops/swiglu_quantize.h"

namespace sluice::kernels::cpu {

void SwigluQuantize(ThreadPool& pool, const SwigluQuantizeArgs& args);
void SwigluBackwardQuantize(ThreadPool& pool, const SwigluBackwardQuantizeArgs& args);

}  // namespace sluice::kernels::cpu
