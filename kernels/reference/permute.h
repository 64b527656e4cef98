// The truth for permute: scalar, in double, in the order a reader expects. Arguments as in
// kernels/ops/permute.h; f64 tensors are taken too.
#pragma once

#include "kernels/ops/permute.h"

namespace sluice::kernels::reference {

void GatherRows(const GatherRowsArgs& args);
void CombineRows(const CombineRowsArgs& args);
void CombineRowsBackward(const CombineRowsBackwardArgs& args);

}  // namespace sluice::kernels::reference
