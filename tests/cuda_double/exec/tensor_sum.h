// How the tensor cores add a row of products to an accumulator.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tests/cuda_double/exec/block.h"

namespace sluice::cuda_double {

// The instructions that add in their own ways on an H100.
enum class TensorInstruction : uint8_t {
  kBF16,            // mma.sync and wgmma, 16 products
  kE4M3ByWarp,      // mma.sync, 32 products
  kE4M3ByWarpgroup  // wgmma, 32 products
};

// sum + a[0] b[0] + ... + a[k-1] b[k-1]. kExact rounds once. kH100 gives an H100's bits, found on
// one with crafted and random operands (tests/golden/h100 holds some of them; the
// documentation is silent): all terms, the accumulator too, are cut toward zero at a bit that lies
// a fixed number below the largest exponent, where a product's exponent is the sum of its operands'
// and a subnormal operand counts as of the smallest normal exponent; added; and the result is cut
// toward zero.
//   kBF16            25 bits below, 24 bits of result
//   kE4M3ByWarpgroup 13 bits below, 14 bits of result
//   kE4M3ByWarp      as two sums of 16 like kBF16's, the second onto the first (elements 4i, 4i + 1
//                    come before 4i + 2, 4i + 3), which is then added to the accumulator in FP32
// Terms that are not finite, and results that are subnormal in FP32, are rounded once.
float TensorSum(float sum, const float* a, const float* b, size_t k, Accumulator accumulator,
                TensorInstruction instruction);

}  // namespace sluice::cuda_double
