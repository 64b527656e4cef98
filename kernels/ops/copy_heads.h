// Copies the same columns of every head between tensors whose heads are differently spaced.   T
// tokens, A heads, D columns
#pragma once

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

// Element (t, a, d) of x lies at x + t * row_stride + a * head_stride + d, likewise y. D is the
// extent 1 of both views.
struct CopyHeadsArgs {
  ConstTensorView x;  // [T, D], the first head's columns; f32 | bf16
  TensorView y;       // [T, D], the first head's columns; dtype of x
  int64_t num_heads = 1, head_stride = 0, y_head_stride = 0;
};
void CopyHeads(Stream& stream, const CopyHeadsArgs& args);

}  // namespace sluice::kernels
