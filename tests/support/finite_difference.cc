#include "tests/support/finite_difference.h"

#include "kernels/core/check.h"

namespace sluice::testing {

Tensor FiniteDifference(const Tensor& x, const std::function<double()>& loss, double step) {
  CHECK(x.dtype() == kernels::DType::kF64) << "finite differences want f64";
  Tensor gradient(x.shape(), kernels::DType::kF64);
  for (int64_t i = 0; i < x.num_elements(); ++i) {
    const double at = x.At(i);
    x.SetAt(i, at + step);
    const double above = loss();
    x.SetAt(i, at - step);
    const double below = loss();
    x.SetAt(i, at);
    gradient.SetAt(i, (above - below) / (2 * step));
  }
  return gradient;
}

double InnerProduct(const Tensor& a, const Tensor& b) {
  CHECK_EQ(a.shape(), b.shape());
  double sum = 0;
  for (int64_t i = 0; i < a.num_elements(); ++i) sum += a.At(i) * b.At(i);
  return sum;
}

}  // namespace sluice::testing
