// Reductions in a fixed order: what ranks sent, added in the order of their numbers.
#pragma once

#include <cstdint>

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

enum class Reduction : uint8_t { kSum, kMax, kMin };

// y[i] = (..(rows[0][i] op rows[1][i]) op ..) op rows[P - 1][i], each step rounded to the dtype.
// Max and min of a NaN and anything are NaN.
struct ReduceRowsArgs {
  ConstTensorView rows;  // [P, n] f32 | f64 | i32 | i64, contiguous, P >= 1
  TensorView y;          // [n] same dtype; may be one of the rows
  Reduction reduction = Reduction::kSum;
};
void ReduceRows(Stream& stream, const ReduceRowsArgs& args);

}  // namespace sluice::kernels
