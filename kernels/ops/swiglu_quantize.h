// SwiGLU and its gradient, quantised where they are computed: in one pass the bits of Swiglu (or
// SwigluBackward) followed by Quantize, on every backend.   T rows, I width
//
// The values are rounded to BF16 before they are quantised. That they are written down as well is
// asked for by `y` and `dgate_up`.
#pragma once

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"
#include "kernels/ops/block_quantize.h"

namespace sluice::kernels {

struct SwigluQuantizeArgs {
  ConstTensorView gate_up;       // [T, 2 I] bf16: gate, then up
  TensorView y;                  // [T, I] bf16; or null
  QuantizedRows rows;            // of y; or null
  QuantizedColumns columns;      // of y; or null
  ConstTensorView offsets = {};  // as Quantize has them
  QuantizeOptions options;
};
void SwigluQuantize(Stream& stream, const SwigluQuantizeArgs& args);

struct SwigluBackwardQuantizeArgs {
  ConstTensorView dy;       // [T, I] bf16
  ConstTensorView gate_up;  // [T, 2 I] as in forward
  TensorView dgate_up;      // [T, 2 I] bf16, may be gate_up; or null
  // Of dgate_up; or null. Column tiles are every 128 of gate and every 128 of up, each from its own
  // first column: B = 2 NumTiles(I).
  QuantizedRows rows;
  QuantizedColumns columns;
  ConstTensorView offsets = {};  // as Quantize has them
  QuantizeOptions options;
};
void SwigluBackwardQuantize(Stream& stream, const SwigluBackwardQuantizeArgs& args);

}  // namespace sluice::kernels
