// Moving rows between token order and expert order, and their adjoints.   T tokens, K experts per
// token, R rows, H width
#pragma once

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

// y[r] = x[index[r]]; any row may be read any number of times.
struct GatherRowsArgs {
  ConstTensorView x;      // [*, H] f32 | bf16 | u8; rows may be strided
  ConstTensorView index;  // [R] i32
  TensorView y;           // [R, H] same dtype
};
void GatherRows(Stream& stream, const GatherRowsArgs& args);

// y[t] = (base[t] +) sum over k ascending of weights[t, k] * rows[row_of[t, k]], in FP32 (each term
// by one fused multiply-add, from base or 0), rounded once to the dtype of y: the same bits on
// every backend. weights null: all 1 (the adjoint of a gather that copied token t to K places).
struct CombineRowsArgs {
  ConstTensorView rows;          // [R, H] f32 | bf16
  ConstTensorView row_of;        // [T, K] i32, in [0, R)
  ConstTensorView weights = {};  // [T, K] f32 or null
  ConstTensorView base = {};     // [T, H] dtype of rows, or null; added first
  TensorView y;                  // [T, H] dtype of rows; may be base
};
void CombineRows(Stream& stream, const CombineRowsArgs& args);

// The adjoint of CombineRows: drows[row_of[t, k]] = weights[t, k] * dy[t] (FP32, rounded once),
// dweights[t, k] = dy[t] . rows[row_of[t, k]] in FP32, fixed order along H. row_of covers every row
// exactly once.
struct CombineRowsBackwardArgs {
  ConstTensorView dy;       // [T, H] f32 | bf16
  ConstTensorView rows;     // [R, H]
  ConstTensorView row_of;   // [T, K] i32
  ConstTensorView weights;  // [T, K] f32
  TensorView drows;         // [R, H]; may be rows
  TensorView dweights;      // [T, K] f32
};
void CombineRowsBackward(Stream& stream, const CombineRowsBackwardArgs& args);

}  // namespace sluice::kernels
