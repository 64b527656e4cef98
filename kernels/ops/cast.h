// Conversions and other plain element-wise ops.   n: number of elements
#pragma once

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

// to[i] = from[i], rounded to nearest even. f32 <-> bf16, or equal dtypes (a copy). Rows may be
// strided.
struct CastArgs {
  ConstTensorView from;  // any shape, f32 | bf16
  TensorView to;         // same shape
};
void Cast(Stream& stream, const CastArgs& args);

// Sets every element of `to` (f32 | bf16 | i32 | i64 | u8, contiguous) to `value`.
void Fill(Stream& stream, TensorView to, double value);

// y = a + b in FP32, rounded once. y may be a or b.
struct AddArgs {
  ConstTensorView a;  // [n] f32 | bf16
  ConstTensorView b;  // [n] same dtype
  TensorView y;       // [n] same dtype
};
void Add(Stream& stream, const AddArgs& args);

}  // namespace sluice::kernels
