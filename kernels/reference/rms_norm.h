// The truth for rms_norm: scalar, in double, in the order a reader expects. Arguments as in
// kernels/ops/rms_norm.h; f64 tensors are taken too.
#pragma once

#include "kernels/ops/rms_norm.h"

namespace sluice::kernels::reference {

void RmsNorm(const RmsNormArgs& args);
void RmsNormBackwardInput(const RmsNormBackwardInputArgs& args);
void RmsNormBackwardWeight(const RmsNormBackwardWeightArgs& args);

}  // namespace sluice::kernels::reference
