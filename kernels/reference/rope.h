// The truth for rope: scalar, in double, in the order a reader expects. Arguments as in
// kernels/ops/rope.h; f64 tensors are taken too.
#pragma once

#include "kernels/ops/rope.h"

namespace sluice::kernels::reference {

void Rope(const RopeArgs& args);
void SumHeads(const SumHeadsArgs& args);
void BroadcastHeads(const BroadcastHeadsArgs& args);

}  // namespace sluice::kernels::reference
