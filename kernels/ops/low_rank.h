// Element-wise ops of low-rank adapters (LoRA).   T rows, C columns, L local experts
#pragma once

#include <cstdint>

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

// y = scale * x, or y += scale * x with accumulate; in FP32, rounded once at the end. y may be x.
struct ScaledAddArgs {
  ConstTensorView x;  // [T, C] f32 | bf16; rows may be strided
  TensorView y;       // same shape and dtype; rows may be strided
  float scale = 1;
  bool accumulate = false;
};
void ScaledAdd(Stream& stream, const ScaledAddArgs& args);

// y[t, c] = 0 with probability `rate`, else x[t, c] / (1 - rate). What is dropped is a function of
// (key, row_stream, row_ids[t], c) alone: word c % 4 of
// Philox(key, row_ids[t] * ceil(C / 4) + c / 4, row_stream), taken as a number in [0, 1), below
// `rate`. So it does not depend on where a row is or which others are there. y may be x.
struct DropoutArgs {
  ConstTensorView x;        // [T, C] f32 | bf16; rows may be strided
  ConstTensorView row_ids;  // [T] i64, not negative
  TensorView y;             // same shape and dtype as x; rows may be strided
  float rate = 0;           // in [0, 1)
  uint64_t key = 0, row_stream = 0;
};
void Dropout(Stream& stream, const DropoutArgs& args);

// ids[t] = first + t.
struct RowIdsArgs {
  int64_t first = 0;
  TensorView ids;  // [T] i64
};
void RowIds(Stream& stream, const RowIdsArgs& args);

// Numbers as pairs of floats, which the token exchange can carry: exact below 2^40.
// parts[t] = (id / 2^20, id % 2^20) of id = first + t.
struct SplitRowIdsArgs {
  int64_t first = 0;
  TensorView parts;  // [T, 2] f32
};
void SplitRowIds(Stream& stream, const SplitRowIdsArgs& args);

// A row of each (token, expert): ids[t] = token * num_experts + first_expert + e for the rows t of
// local expert e, `parts` being the tokens as SplitRowIds makes them.
struct ExpertRowIdsArgs {
  ConstTensorView parts;    // [T, 2] f32
  ConstTensorView offsets;  // [L + 1] i32, ascending from 0 to T
  TensorView ids;           // [T] i64
  int first_expert = 0, num_experts = 1;
};
void ExpertRowIds(Stream& stream, const ExpertRowIdsArgs& args);

}  // namespace sluice::kernels
