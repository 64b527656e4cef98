// The truth for cast: scalar, in double, in the order a reader expects. Arguments as in
// kernels/ops/cast.h; f64 tensors are taken too.
#pragma once

#include "kernels/ops/cast.h"

namespace sluice::kernels::reference {

void Cast(const CastArgs& args);
void Fill(TensorView to, double value);
void Add(const AddArgs& args);

}  // namespace sluice::kernels::reference
