// router on the CPU.
#pragma once

#include "kernels/core/thread_pool.h"
#include "kernels/cpu/ranges.h"
#include "kernels/cpu/target.h"
#include "kernels/ops/router.h"

namespace sluice::kernels::cpu {

struct RouterTable {
  RangeFunction<RouteArgs> scores = nullptr;  // fills args.scores
  float (*log_sum_exp)(const float* x, int64_t n) = nullptr;
  // The gradient of tokens [begin, end), all of sequence s.
  void (*backward)(const RouterBackwardArgs& args, int64_t s, int64_t begin, int64_t end) = nullptr;
};
RouterTable RouterTableOf(Target target);

void Route(ThreadPool& pool, const RouteArgs& args);
void BalanceLoss(ThreadPool& pool, const BalanceLossArgs& args);
void RouterBackward(ThreadPool& pool, const RouterBackwardArgs& args);

}  // namespace sluice::kernels::cpu
