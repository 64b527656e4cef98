// The truth for attention: scalar, in double, in the order a reader expects. Arguments as in
// kernels/ops/attention.h; f64 tensors are taken too.
#pragma once

#include "kernels/ops/attention.h"

namespace sluice::kernels::reference {

void Attention(const AttentionArgs& args);
void AttentionBackward(const AttentionBackwardArgs& args);

}  // namespace sluice::kernels::reference
