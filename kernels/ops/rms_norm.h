// RMSNorm (Zhang and Sennrich 2019): y = x * rsqrt(mean(x^2) + eps) * w, statistics in FP32.   T
// rows, H width
#pragma once

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

// With `residual`, first r = x + residual (FP32, rounded once to r's dtype), stored to
// residual_out, and r is normalised.
struct RmsNormArgs {
  ConstTensorView x;       // [T, H] f32 | bf16; rows may be strided
  ConstTensorView w;       // [H] dtype of x
  TensorView y;            // [T, H] dtype of x; rows may be strided
  TensorView inverse_rms;  // [T] f32, for backward
  float eps = 1e-6f;
  ConstTensorView residual = {};  // [T, H] dtype of x, or null
  TensorView residual_out = {};   // [T, H] dtype of x; needed with residual; may be x or residual
};
void RmsNorm(Stream& stream, const RmsNormArgs& args);

// dx = w.r.t. x of sum(dy * y). With dx_add: dx = that + dx_add (FP32, rounded once).
struct RmsNormBackwardInputArgs {
  ConstTensorView dy;  // [T, H] f32 | bf16; rows may be strided
  ConstTensorView x;   // [T, H] what was normalised (residual_out where a residual was added)
  ConstTensorView w;   // [H]
  ConstTensorView inverse_rms;  // [T] f32
  TensorView dx;                // [T, H]; may be dy or dx_add
  ConstTensorView dx_add = {};  // [T, H] or null
};
void RmsNormBackwardInput(Stream& stream, const RmsNormBackwardInputArgs& args);

// dw += sum over rows of dy * x * inverse_rms; fixed order: blocks of 64 rows ascending, each
// summed in row order.
struct RmsNormBackwardWeightArgs {
  ConstTensorView dy;           // [T, H]
  ConstTensorView x;            // [T, H]
  ConstTensorView inverse_rms;  // [T] f32
  TensorView dw;                // [H] f32
};
void RmsNormBackwardWeight(Stream& stream, const RmsNormBackwardWeightArgs& args);

}  // namespace sluice::kernels
