// The products of kernels/ops/dequantized_matmul.h, slow and obvious.
#pragma once

#include "kernels/ops/dequantized_matmul.h"

namespace sluice::kernels::reference {

void DequantizedMatmul(const DequantizedMatmulArgs& args);

}  // namespace sluice::kernels::reference
