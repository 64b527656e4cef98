// How far two tensors are apart, and samples of them, for reports.
#pragma once

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

// *difference += sum of (a - b)^2 and *norm += sum of b^2, in FP64, row by row. Computed by the
// host: on another device it waits for the stream and copies.
struct SquaredDifferenceArgs {
  ConstTensorView a;             // [R, C] f32 | bf16; rows may be strided
  ConstTensorView b;             // [R, C] f32 | bf16
  double* difference = nullptr;  // host; both valid when the stream got there
  double* norm = nullptr;
};
void AddSquaredDifference(Stream& stream, const SquaredDifferenceArgs& args);

// y[i, j] = x[i R / m, j C / n], both rounded down: m of R rows, m <= R, and n of C columns, n <=
// C, at even distances.
struct SampleArgs {
  ConstTensorView x;  // [R, C] f32 | bf16 | e4m3; rows may be strided
  TensorView y;       // [m, n] same dtype
};
void Sample(Stream& stream, const SampleArgs& args);

}  // namespace sluice::kernels
