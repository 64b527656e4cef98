// Rotary position embedding (Su et al. 2021).   T tokens, A heads, D rotated width (even), P
// positions
#pragma once

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

enum class RopeLayout : uint8_t {
  kInterleaved,  // pairs (x[2i], x[2i+1]): DeepSeek
  kHalf,         // pairs (x[i], x[i + D/2]): Llama, Qwen3, Mixtral, OLMoE
};

// Rotates pair i of token t by angle(positions[t], i), in FP32, rounded once. y may be x.
// A view of D columns inside wider heads: pass head_stride (elements from one head to the next) and
// a row-strided view whose first column is the first rotated element.
struct RopeArgs {
  ConstTensorView
      x;         // [T, *] f32 | bf16: element (t, a, d) at x + t * row_stride + a * head_stride + d
  TensorView y;  // likewise, with y_head_stride
  ConstTensorView cos;        // [P, D / 2] f32
  ConstTensorView sin;        // [P, D / 2] f32
  ConstTensorView positions;  // [T] i32, in [0, P)
  int64_t num_heads = 1, head_stride = 0, y_head_stride = 0;
  RopeLayout layout = RopeLayout::kInterleaved;
  bool inverse = false;  // rotates back: the adjoint, for backward
};
void Rope(Stream& stream, const RopeArgs& args);

// y[t] = sum over heads of x[t, a], FP32 in ascending head order, rounded once: the gradient of a
// key shared by all heads.
struct SumHeadsArgs {
  ConstTensorView x;  // [T, *] as in RopeArgs, D columns used of each head
  TensorView y;       // [T, D] dtype of x; rows may be strided
  int64_t num_heads = 1, head_stride = 0;
};
void SumHeads(Stream& stream, const SumHeadsArgs& args);

// y[t, a, :] = x[t, :] for every head: the key shared by all heads, copied into each.
struct BroadcastHeadsArgs {
  ConstTensorView x;  // [T, D]; rows may be strided
  TensorView y;       // [T, *] with head_stride
  int64_t num_heads = 1, head_stride = 0;
};
void BroadcastHeads(Stream& stream, const BroadcastHeadsArgs& args);

}  // namespace sluice::kernels
