// The truth for cross_entropy: scalar, in double, in the order a reader expects. Arguments as in
// kernels/ops/cross_entropy.h; f64 tensors are taken too.
#pragma once

#include "kernels/ops/cross_entropy.h"

namespace sluice::kernels::reference {

void CrossEntropy(const CrossEntropyArgs& args);

}  // namespace sluice::kernels::reference
