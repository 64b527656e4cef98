// The truth for the ops of low-rank adapters: scalar, in double. Arguments as in
// kernels/ops/low_rank.h.
#pragma once

#include "kernels/ops/low_rank.h"

namespace sluice::kernels::reference {

void ScaledAdd(const ScaledAddArgs& args);
void Dropout(const DropoutArgs& args);

// A linear layer with a low-rank adapter, as LoRA writes it (Hu et al., arXiv 2106.09685, section
// 4.1), dropout left out: y = W x + scale * B A x, and the gradients of sum(dy * y).
//   T rows, I inputs, O outputs, r rank; any floating dtype
struct LoraLinearArgs {
  ConstTensorView w, a, b;  // [O, I], [r, I], [O, r]
  ConstTensorView x, dy;    // [T, I], [T, O]
  double scale = 1;
  TensorView y, dx, da, db;  // [T, O], [T, I], [r, I], [O, r]; all overwritten
};
void LoraLinear(const LoraLinearArgs& args);

}  // namespace sluice::kernels::reference
