// The truth for router: scalar, in double, in the order a reader expects. Arguments as in
// kernels/ops/router.h; f64 tensors are taken too.
#pragma once

#include "kernels/ops/router.h"

namespace sluice::kernels::reference {

void Route(const RouteArgs& args);
void BalanceLoss(const BalanceLossArgs& args);
void RouterBackward(const RouterBackwardArgs& args);

}  // namespace sluice::kernels::reference
