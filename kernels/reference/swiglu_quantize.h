#pragma once

#include "kernels/ops/swiglu_quantize.h"

namespace sluice::kernels::reference {

void SwigluQuantize(const SwigluQuantizeArgs& args);
void SwigluBackwardQuantize(const SwigluBackwardQuantizeArgs& args);

}  // namespace sluice::kernels::reference
