#pragma once

#include "kernels/ops/fp8_matmul.h"

namespace sluice::kernels::reference {

// The products of the values (code * scale, in double): promotion is a matter
// of rounding only.
void Fp8Matmul(const Fp8MatmulArgs& args);
void Fp8WeightGradient(const Fp8WeightGradientArgs& args);

}  // namespace sluice::kernels::reference
