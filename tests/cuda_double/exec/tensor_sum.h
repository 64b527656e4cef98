// How the tensor cores add a row of products to an accumulator.
#pragma once

#include <cstddef>

#include "tests/cuda_double/exec/block.h"

namespace sluice::cuda_double {

// sum + a[0] b[0] + ... + a[k-1] b[k-1]. kExact rounds once. kTruncating aligns all terms to the
// largest exponent among them and keeps 13 bits of fraction, as reported for FP8 on Hopper
// (DeepSeek-V3 report, section 3.3.2: about 14 bits); the hardware's exact rounding is not
// documented.
float TensorSum(float sum, const float* a, const float* b, size_t k, Accumulator accumulator);

}  // namespace sluice::cuda_double
