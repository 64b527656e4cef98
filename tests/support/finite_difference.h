// Gradients by central differences, in double.
#pragma once

#include <functional>

#include "tests/support/tensor.h"

namespace sluice::testing {

// d loss() / d x[i] for every element of x (f64), which is changed in place and restored. The error
// is about step^2 times the third derivative plus 1e-16 |loss| / step.
Tensor FiniteDifference(const Tensor& x, const std::function<double()>& loss, double step = 1e-5);

// sum of a[i] * b[i] in double: <a, b>.
double InnerProduct(const Tensor& a, const Tensor& b);

}  // namespace sluice::testing
