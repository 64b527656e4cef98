// How far two tensors are apart, for reports.
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

}  // namespace sluice::kernels
