// How far two tensors are apart, and samples of them, for reports. On the CPU only.
#pragma once

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

// *difference += sum of (a - b)^2 and *norm += sum of b^2, in FP64, row by row.
struct SquaredDifferenceArgs {
  ConstTensorView a;             // [R, C] f32 | bf16; rows may be strided
  ConstTensorView b;             // [R, C] f32 | bf16
  double* difference = nullptr;  // host; both valid when the stream got there
  double* norm = nullptr;
};
void AddSquaredDifference(Stream& stream, const SquaredDifferenceArgs& args);

// y[r, j] = x[r, j C / n] rounded down: n of C columns at even distances, n <= C.
struct SampleColumnsArgs {
  ConstTensorView x;  // [R, C]; rows may be strided
  TensorView y;       // [R, n] same dtype
};
void SampleColumns(Stream& stream, const SampleColumnsArgs& args);

}  // namespace sluice::kernels
