// Multi-token prediction, one depth (DeepSeek-V3 report section 2.2): from the previous depth's
// hidden state at position i and the embedding of token i + d it predicts token i + d + 1, through
// one block and the shared head.   T tokens, H hidden eh_proj reads [enorm(embedding) ;
// hnorm(hidden)], as in the released weights.
#pragma once

#include "absl/status/status.h"
#include "trainer/model/block.h"
#include "trainer/model/lm_head.h"

namespace sluice::trainer {

class MtpModule {
 public:
  // Depth index 0 is layer num_hidden_layers. `embedding` and `head` are shared with the main
  // model.
  MtpModule(const BuildContext& build, int index, Parameter& embedding, LmHead& head);

  // The block's phases and one more, for the head.
  int NumPhases() const { return block_.NumPhases() + 1; }
  kernels::StreamRole RoleOf(int phase) const {
    return phase < block_.NumPhases() ? block_.RoleOf(phase) : kernels::StreamRole::kCompute;
  }
  // h [T, H]: hidden state of the previous depth. The last phase writes the losses to loss [T] f32.
  absl::Status Forward(const Context& context, int phase, ConstTensorView h, TensorView loss);
  // What the next depth reads: after the module's final norm, or before it.
  ConstTensorView Hidden(const Context& context, bool before_norm) const;
  // d_next: gradient of Hidden() from the next depth, or null, read in the last phase. dh [T, H]:
  // gradient of h, written in phase 0.
  absl::Status BackwardInput(const Context& context, int phase, ConstTensorView h,
                             ConstTensorView d_next, TensorView dh);
  void BackwardWeight(const Context& context, int phase, ConstTensorView h);
  void ForEachLinear(const LinearVisitor& visit);
  Block& block() { return block_; }
  MoeLayer* moe() { return block_.moe(); }

 private:
  void JoinInputs(const Context& context, ConstTensorView h);
  void ForwardHead(const Context& context, TensorView loss);
  void BackwardHead(const Context& context, ConstTensorView d_next);
  void BackwardJoin(const Context& context, ConstTensorView h, TensorView dh);
  void BackwardJoinWeight(const Context& context, ConstTensorView h);

  const int index_;
  const int64_t hidden_;
  const float eps_;
  const bool before_norm_;
  Parameter& embedding_;
  LmHead& head_;
  Parameter* embedding_norm_;
  Parameter* hidden_norm_;
  Linear projection_;
  Block block_;
  Parameter* final_norm_;
  SlotId embedded_, embedded_rms_, hidden_rms_, joined_, projected_, out_, final_rms_, normed_,
      d_normed_, d_out_, d_projected_, d_joined_, d_embedded_;
};

}  // namespace sluice::trainer
