// Matrix products of E4M3 operands with a scale a tile (DeepSeek-V3 report
// section 3.3.2).
//   M rows, K contracted, N columns, T tokens, E experts, O out, I in
//
// Every tile along K (128 numbers or fewer) is summed in FP32, and the sum
// enters an FP32 total multiplied by both scales ("promotion"), tiles
// ascending:
//   c[m, n] = sum over tiles t of (scale_a[m, t] * scale_b[t, n]) * (sum over k
//   in t of a * b)
// On the CPU to the bit, on every instruction set: products of codes are exact;
// a tile's sum starts from 0 and takes one product after the other, k ascending
// in pairs of a tile, of each pair the odd one first (the order of the
// instruction VDPBF16PS); the product of the scales is rounded once, and enters
// the total fused. Other backends agree within a bound.
// Batch-invariant as in matmul.h. Any K works; the trainer asks for multiples
// of 16.
#pragma once

#include <cstdint>

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"
#include "kernels/ops/block_quantize.h"

namespace sluice::kernels {

enum class Fp8Direction : uint8_t {
  kForward,  // y = x W^T: K = I, tiles every 128; N = O
  kBackward  // dx = dy W: K = O, tiles are the weight's row_tiles; N = I
};

struct Fp8MatmulArgs {
  QuantizedRows a;    // [M, K]
  QuantizedWeight w;  // [E, O, I] with its transpose
  Fp8Direction direction = Fp8Direction::kForward;
  ConstTensorView offsets = {};  // [E + 1] i32: rows of expert e; null: E = 1 and all rows
  TensorView c;                  // [M, N] f32 | bf16; rows may be strided
};
void Fp8Matmul(Stream& stream, const Fp8MatmulArgs& args);

// dw[e] += dy[rows of e]^T x[rows of e], tiles of 128 rows ascending. An expert
// with no row is left untouched.
struct Fp8WeightGradientArgs {
  QuantizedColumns dy;  // [T, O]
  QuantizedColumns x;   // [T, I]
  ConstTensorView offsets =
      {};         // [E + 1] i32, those that dy and x were quantised with; null: E = 1
  TensorView dw;  // [E, O, I] f32
};
void Fp8WeightGradient(Stream& stream, const Fp8WeightGradientArgs& args);

// Whether Fp8WeightGradient of this stream's device is meant to read QuantizedColumns transposed
// (else as rows).
bool ReadsTransposedColumns(const Stream& stream);

}  // namespace sluice::kernels
