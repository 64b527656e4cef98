// SwiGLU (Shazeer 2020): y = silu(gate) * up, in FP32, rounded once.   T rows, I width
// Equal to the bit on every backend: silu and its slope are those of kernels/core/exp.h; y = silu *
// up, dgate = dy up * slope, dup = dy * (gate sigmoid), each product rounded.
#pragma once

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

struct SwigluArgs {
  ConstTensorView gate_up;  // [T, 2 I] f32 | bf16: gate, then up
  TensorView y;             // [T, I] same dtype
};
void Swiglu(Stream& stream, const SwigluArgs& args);

struct SwigluBackwardArgs {
  ConstTensorView dy;       // [T, I]
  ConstTensorView gate_up;  // [T, 2 I] as in forward
  TensorView dgate_up;      // [T, 2 I]; may be gate_up
};
void SwigluBackward(Stream& stream, const SwigluBackwardArgs& args);

}  // namespace sluice::kernels
