// Softmax cross-entropy over one chunk of logits.   C rows of the chunk, V vocabulary
#pragma once

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

// loss[c] = log(sum_v exp(logits[c, v])) - logits[c, targets[c]], statistics in FP32; 0 where
// targets[c] < 0 (masked). With dlogits: dlogits[c, v] = scale * (softmax(logits[c])[v] - [v ==
// targets[c]]), 0 where masked.
struct CrossEntropyArgs {
  ConstTensorView logits;   // [C, V] f32
  ConstTensorView targets;  // [C] i32, in [0, V) or negative
  TensorView loss;          // [C] f32
  TensorView dlogits = {};  // [C, V] f32 | bf16, or null; f32 may be logits itself
  float scale = 1.0f;
};
void CrossEntropy(Stream& stream, const CrossEntropyArgs& args);

}  // namespace sluice::kernels
