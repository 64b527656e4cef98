// Token embedding.   T tokens, V vocabulary, H width
#pragma once

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

struct EmbeddingArgs {
  ConstTensorView tokens;  // [T] i32, in [0, V)
  ConstTensorView table;   // [V, H] f32 | bf16
  TensorView y;            // [T, H] same dtype
};
void Embedding(Stream& stream, const EmbeddingArgs& args);

// dtable[tokens[t]] += dy[t], in ascending t.
struct EmbeddingBackwardArgs {
  ConstTensorView dy;      // [T, H] f32 | bf16
  ConstTensorView tokens;  // [T] i32
  TensorView dtable;       // [V, H] f32
};
void EmbeddingBackward(Stream& stream, const EmbeddingBackwardArgs& args);

}  // namespace sluice::kernels
