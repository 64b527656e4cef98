// What every op's .cc checks before it hands its arguments to a backend.
#pragma once

#include "absl/strings/string_view.h"
#include "kernels/core/check.h"
#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

// CHECKs that `view` (called `name` in messages) has this shape and dtype, lies on the stream's
// device, and is contiguous if of rank 1. Rows of higher ranks may be strided.
void CheckTensor(const Stream& stream, absl::string_view name, const ConstTensorView& view,
                 Shape shape, DType dtype);

// The dtype of an op's activations: CHECKs that it is f32 or bf16 and returns it.
DType CheckFloat(absl::string_view name, const ConstTensorView& view);

}  // namespace sluice::kernels
