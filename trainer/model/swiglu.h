// SwiGLU between two linear layers. Where they are in FP8, its result and its gradient are
// quantised as they are computed and exist as codes alone, but in steps that report, which look at
// values.
//   R rows, I width
#pragma once

#include "trainer/model/context.h"
#include "trainer/model/linear.h"

namespace sluice::trainer {

// y [R, I] of gate_up [R, 2 I] for `down`, which reads it: values into the slot `y`, in FP8 codes
// to where `down` finds them.
void ApplySwiglu(const Context& context, ConstTensorView gate_up, const Linear& down, SlotId y);

// The gradient of gate_up from dy [R, I] of its SwiGLU, for `layer`, which computed gate_up: values
// into the slot `dgate_up`, in FP8 codes to where `layer` finds them. `offsets` as the layer's
// backward gets them; null: no experts.
void ApplySwigluGradient(const Context& context, ConstTensorView dy, ConstTensorView gate_up,
                         const Linear& layer, ConstTensorView offsets, SlotId dgate_up);

}  // namespace sluice::trainer
