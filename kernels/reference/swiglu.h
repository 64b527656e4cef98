// The truth for swiglu: scalar, in double, in the order a reader expects. Arguments as in
// kernels/ops/swiglu.h; f64 tensors are taken too.
#pragma once

#include "kernels/ops/swiglu.h"

namespace sluice::kernels::reference {

void Swiglu(const SwigluArgs& args);
void SwigluBackward(const SwigluBackwardArgs& args);

}  // namespace sluice::kernels::reference
