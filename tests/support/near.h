// Comparison within a derived bound.
#pragma once

#include <gtest/gtest.h>

#include "kernels/core/dtype.h"
#include "tests/support/tensor.h"

namespace sluice::testing {

// |actual - expected| <= absolute + relative * |expected| + magnitude_factor * magnitude[i].
// `magnitude` is for sums whose terms cancel: the sum of the terms' absolute values (any dtype, the
// shape of expected), with the rounding errors per unit of it as the factor.
struct Bound {
  double absolute = 0.0, relative = 0.0;
  const Tensor* magnitude = nullptr;
  double magnitude_factor = 0.0;
};

// Half a unit in the last place of f32, relative: the most that one rounding can move a value.
inline constexpr double kF32Rounding = 0x1p-24;

// How far a value may move when it is rounded to `dtype` on one side of a tie instead of the other:
// one unit in the last place, relative.
double OneUlp(kernels::DType dtype);

// Success, or which element is the first bad one, what was found and wanted there, its bound, how
// many are bad and the largest share of the bound that any element used.  A NaN only equals a NaN;
// an infinity only the same infinity.
::testing::AssertionResult Near(const Tensor& actual, const Tensor& expected, const Bound& bound);

// Success, or the first element whose bits differ.
::testing::AssertionResult Same(const Tensor& actual, const Tensor& expected);

}  // namespace sluice::testing
