#include "tests/cuda_double/exec/tensor_sum.h"

#include <algorithm>
#include <cmath>

namespace sluice::cuda_double {

float TensorSum(float sum, const float* a, const float* b, size_t k, Accumulator accumulator) {
  double total = sum;
  if (accumulator == Accumulator::kExact) {
    for (size_t i = 0; i < k; ++i) total += static_cast<double>(a[i]) * b[i];
    return static_cast<float>(total);
  }
  double largest = std::fabs(total);
  for (size_t i = 0; i < k; ++i)
    largest = std::max(largest, std::fabs(static_cast<double>(a[i]) * b[i]));
  if (largest == 0 || !std::isfinite(largest)) {
    for (size_t i = 0; i < k; ++i) total += static_cast<double>(a[i]) * b[i];
    return static_cast<float>(total);
  }
  constexpr int kFractionBits = 13;
  const double unit = std::ldexp(1.0, std::ilogb(largest) - kFractionBits);
  double units = std::trunc(total / unit);
  for (size_t i = 0; i < k; ++i) units += std::trunc(static_cast<double>(a[i]) * b[i] / unit);
  return static_cast<float>(units * unit);
}

}  // namespace sluice::cuda_double
