#include "kernels/reference/adamw.h"

#include <cmath>

#include "kernels/reference/access.h"

namespace sluice::kernels::reference {

void AdamW(const AdamWArgs& args) {
  const double b1 = args.beta1, b2 = args.beta2, step = static_cast<double>(args.step);
  const double correction1 = 1.0 - std::pow(b1, step), correction2 = 1.0 - std::pow(b2, step);
  for (int64_t i = 0; i < args.master.num_elements(); ++i) {
    const double g = static_cast<double>(args.gradient_scale) * Get(args.gradient, i);
    const double m = b1 * Get(args.m, i) + (1.0 - b1) * g;
    const double v = b2 * Get(args.v, i) + (1.0 - b2) * g * g;
    const double old = Get(args.master, i);
    const double step_size = m / correction1 / (std::sqrt(v / correction2) + args.eps);
    const double updated = old - args.learning_rate * (step_size + args.weight_decay * old);
    Set(args.m, m, i);
    Set(args.v, v, i);
    Set(args.master, updated, i);
    // From the stored master, so that the two never disagree by a second rounding.
    if (!args.value.is_null()) Set(args.value, Get(args.master, i), i);
  }
}

void SumSquares(const SumSquaresArgs& args) {
  double* sum = args.sum.mutable_data<double>();
  double total = args.accumulate ? *sum : 0.0;
  for (int64_t i = 0; i < args.x.num_elements(); ++i) total += Get(args.x, i) * Get(args.x, i);
  *sum = total;
}

}  // namespace sluice::kernels::reference
