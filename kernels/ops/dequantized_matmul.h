// Matrix products with a weight that stays in E4M3 blocks; docs/fp8.md, "Weights as released".
//   M rows, K contracted, N columns, E experts, O out, I in
//
// A weight's value is code * scale in FP32, rounded once to the dtype of `a`; then the product is
// that of matmul.h, to the bit what it gives with the whole weight written out. Only some columns
// of the weight exist as values at a time.
#pragma once

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"
#include "kernels/ops/fp8_matmul.h"

namespace sluice::kernels {

// CPU streams only.
struct DequantizedMatmulArgs {
  ConstTensorView a;  // [M, K] f32 | bf16; rows may be strided
  QuantizedWeight w;  // [E, O, I]; transposed_* are not read
  Fp8Direction direction = Fp8Direction::kForward;
  ConstTensorView offsets = {};  // [E + 1] i32: rows of expert e; null: E = 1 and all rows
  TensorView c;                  // [M, N] f32, or the dtype of a; rows may be strided
};
void DequantizedMatmul(Stream& stream, const DequantizedMatmulArgs& args);

}  // namespace sluice::kernels
