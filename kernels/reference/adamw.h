// The truth for adamw: scalar, in double, in the order a reader expects. Arguments as in
// kernels/ops/adamw.h; f64 tensors are taken too.
#pragma once

#include "kernels/ops/adamw.h"

namespace sluice::kernels::reference {

void AdamW(const AdamWArgs& args);
void SumSquares(const SumSquaresArgs& args);

}  // namespace sluice::kernels::reference
