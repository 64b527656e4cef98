#include "kernels/reference/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/reference/access.h"

namespace sluice::kernels::reference {

void CrossEntropy(const CrossEntropyArgs& args) {
  const int64_t rows = args.logits.extent(0), vocabulary = args.logits.extent(1);
  for (int64_t c = 0; c < rows; ++c) {
    const int64_t target = Index(args.targets, c);
    double most = -std::numeric_limits<double>::infinity(), sum = 0;
    for (int64_t v = 0; v < vocabulary; ++v) most = std::max(most, Get(args.logits, c, v));
    for (int64_t v = 0; v < vocabulary; ++v) sum += std::exp(Get(args.logits, c, v) - most);
    const double log_sum_exp = most + std::log(sum);
    Set(args.loss, target < 0 ? 0.0 : log_sum_exp - Get(args.logits, c, target), c);
    if (args.dlogits.is_null()) continue;
    for (int64_t v = 0; v < vocabulary; ++v) {
      const double p = std::exp(Get(args.logits, c, v) - log_sum_exp) - (v == target ? 1.0 : 0.0);
      Set(args.dlogits, target < 0 ? 0.0 : static_cast<double>(args.scale) * p, c, v);
    }
  }
}

}  // namespace sluice::kernels::reference
