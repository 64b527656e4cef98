// Causal attention, blocked with online softmax: no S x S buffer.
//   T tokens of all sequences, A query heads, G key/value heads (G divides A; query head a reads
//   key head a / (A / G)), D query/key width, V value width, S sequences
// A sequence's result does not depend on which others share the batch. Statistics in FP32.
#pragma once

#include <cstddef>

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

struct AttentionArgs {
  ConstTensorView q;  // [T, A, D] f32 | bf16; rows may be strided
  ConstTensorView k;  // [T, G, D]; rows may be strided
  ConstTensorView v;  // [T, G, V]; rows may be strided
  ConstTensorView
      starts;    // [S + 1] i32: tokens [starts[s], starts[s+1]) attend causally among themselves
  TensorView o;  // [T, A, V] dtype of q
  TensorView log_sum_exp;  // [T, A] f32, of the scaled scores; for backward
  float scale = 1.0f;      // scores are scale * q . k
  TensorView scratch;      // [AttentionScratchBytes(...)] u8
  // What the host knows of `starts`: the tokens of every sequence, if they are equally many; else
  // 0. Only a library that knows one length asks for it.
  int64_t sequence_length = 0;
};
void Attention(Stream& stream, const AttentionArgs& args);

struct AttentionBackwardArgs {
  ConstTensorView dout;                             // [T, A, V] gradient of o
  ConstTensorView q, k, v, starts, o, log_sum_exp;  // as in and out of forward
  TensorView dq, dk, dv;  // shapes and dtypes of q, k, v; rows may be strided
  float scale = 1.0f;
  TensorView scratch;  // [AttentionScratchBytes(...)] u8
};
void AttentionBackward(Stream& stream, const AttentionBackwardArgs& args);

// Enough for forward and backward of these shapes on this stream's device; 0 is legal, scratch may
// then be null. CUDA's backward keeps 8 bytes a query and head. The CPU asks for none: each of its
// threads keeps 4 (6 D + 4 V + 2) bytes per token of the longest sequence it has met.
size_t AttentionScratchBytes(Stream& stream, int64_t tokens, int64_t heads, int64_t kv_heads,
                             int64_t d, int64_t v);

}  // namespace sluice::kernels
