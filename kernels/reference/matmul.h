// The matrix products of kernels/ops/matmul.h, slow and obvious: double accumulators, one loop per
// index. Packed operands are opaque, so those two take the matrix itself instead.
#pragma once

#include "kernels/core/tensor_view.h"
#include "kernels/ops/matmul.h"

namespace sluice::kernels::reference {

void Matmul(const MatmulArgs& args);

// GroupedMatmul with w as it was before packing: [E, K, N], or [E, N, K] with transpose_w.
struct GroupedMatmulArgs {
  ConstTensorView x;        // [T, K]
  ConstTensorView w;        // dtype of x
  ConstTensorView offsets;  // [E + 1] i32
  TensorView y;             // [T, N]
  bool transpose_w = false;
};
void GroupedMatmul(const GroupedMatmulArgs& args);

void GroupedWeightGradient(const GroupedWeightGradientArgs& args);

}  // namespace sluice::kernels::reference
