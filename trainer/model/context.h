// What a module needs to run one microbatch.   T = S L tokens: S sequences of L
#pragma once

#include <cstdint>

#include "trainer/model/activation_pool.h"
#include "trainer/model/tape.h"

namespace sluice::trainer {

// One microbatch on the device, as every stage sees it.
struct MicrobatchInput {
  int64_t num_sequences = 0, sequence_length = 0;
  int64_t first_sequence = 0;  // index of its first sequence in the global batch
  ConstTensorView tokens;      // [T] i32
  ConstTensorView targets;     // [T] i32, negative: no target
  // MTP of depth d = 1..: the token embedded at each position and its target.
  std::vector<ConstTensorView> mtp_tokens, mtp_targets;  // [T] i32 each
  ConstTensorView positions;                             // [T] i32, place in the sequence
  ConstTensorView
      starts;  // [attention spans + 1] i32: whole sequences, or documents under the document mask
  ConstTensorView sequence_starts;  // [S + 1] i32

  int64_t num_tokens() const { return num_sequences * sequence_length; }
  // Tokens of an attention span, if all are whole sequences; else 0.
  int64_t attention_length() const {
    return starts.extent(0) == num_sequences + 1 ? sequence_length : 0;
  }
};

// Factors of the gradients of a step. Gradients are those of the *sum* of the main loss over all
// target tokens of the global batch; the optimizer divides by their number N, so gradients do not
// shrink with the batch.
struct LossScales {
  float mtp = 0;      // of each MTP token loss: lambda / D * N / N_mtp
  float balance = 0;  // of each sequence's balance loss: alpha * N / sequences
  float z = 0;        // of each token's squared log-sum-exp: coefficient
  // Not a factor, but also of a step: what its dropout masks are made from.
  uint64_t dropout_key = 0;
  // Of each token's share of expert e in its scores, for the load-balancing loss over the global
  // batch: [E] f32, or null.
  ConstTensorView global_load;
};

class Fp8Health;

struct Context {
  Stream& stream;
  ActivationPool& pool;
  Tape& tape;
  const MicrobatchInput& batch;
  LossScales scales;
  bool training = true;  // false: forward only, nothing is kept for a backward
  DType dtype = DType::kF32;
  // Numbers of the rows at hand for dropout, where they are not the microbatch's tokens in order.
  ConstTensorView row_ids = {};  // [rows] i64, or null
  Fp8Health* health = nullptr;   // of this step; null: nobody looks

  TensorView NewRows(SlotId slot, int64_t width) const {
    return tape.New(slot, dtype, {batch.num_tokens(), width});
  }
};

}  // namespace sluice::trainer
