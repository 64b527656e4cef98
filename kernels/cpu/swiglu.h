// swiglu on the CPU.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/cpu/ranges.h"
#include "kernels/cpu/target.h"
#include "kernels/ops/swiglu.h"

namespace sluice::kernels::cpu {

struct SwigluTable {
  ByDType<SwigluArgs> forward;
  ByDType<SwigluBackwardArgs> backward;
};
SwigluTable SwigluTableOf(Target target);

void Swiglu(ThreadPool& pool, const SwigluArgs& args);
void SwigluBackward(ThreadPool& pool, const SwigluBackwardArgs& args);

}  // namespace sluice::kernels::cpu
