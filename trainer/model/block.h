// One pre-norm decoder layer: x + attention(norm(x)), then that + mlp(norm(that)).   T tokens, H
// hidden
//
// An MoE layer has four phases: attention with the gate | dispatch | experts | combine; the second
// and the fourth communicate. A dense layer has one.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "trainer/model/attention.h"
#include "trainer/model/context.h"
#include "trainer/model/mlp.h"
#include "trainer/model/moe_layer.h"

namespace sluice::trainer {

// What all modules of a stage are built from.
struct BuildContext {
  const ModelConfig& config;
  const RopeTable& rope;
  Recompute recompute;
  parallel::TokenExchange* exchange;  // null when the model has no experts
  ParameterStore& store;
  TapeLayout& layout;
  const Fp8Options* fp8 = nullptr;  // outlives the stage; null: not in FP8
};

class Block {
 public:
  // Layer `index`; MoE when `is_moe`.
  Block(const BuildContext& build, int index, bool is_moe);

  int NumPhases() const { return moe_ != nullptr ? 4 : 1; }
  kernels::StreamRole RoleOf(int phase) const {
    return phase % 2 == 0 ? kernels::StreamRole::kCompute : kernels::StreamRole::kComm;
  }
  // Phases ascend. y is written in the last ones.
  absl::Status Forward(const Context& context, int phase, ConstTensorView x, TensorView y);
  // Phases descend; dx is needed in phase 0 only. x and dy must live until BackwardWeight of phase
  // 0.
  absl::Status BackwardInput(const Context& context, int phase, ConstTensorView x,
                             ConstTensorView dy, TensorView dx);
  // Phases descend, each some time after its BackwardInput.
  void BackwardWeight(const Context& context, int phase, ConstTensorView x, ConstTensorView dy);
  void ForEachLinear(const LinearVisitor& visit);
  MoeLayer* moe() { return moe_.get(); }  // null for a dense layer
  // For reports: x + attention(norm(x)) after phase 0 of Forward, and its gradient after phase 0 of
  // BackwardInput, where it is kept (else null).
  ConstTensorView middle(const Context& context) const { return context.tape.Find(middle_); }
  ConstTensorView d_middle(const Context& context) const { return context.tape.Find(d_middle_); }

 private:
  enum Phase : int { kAttention, kDispatch, kExperts, kCombine };
  void ForwardAttention(const Context& context, ConstTensorView x);
  void BackwardAttention(const Context& context, ConstTensorView x, ConstTensorView dy,
                         TensorView dx);
  void FinishForward(const Context& context, TensorView y);
  void RestoreNormed(const Context& context, ConstTensorView x);

  const int64_t hidden_;
  const float eps_;
  const bool recompute_norm_;
  Parameter* attention_norm_;
  Parameter* mlp_norm_;
  std::unique_ptr<AttentionLayer> attention_;
  std::unique_ptr<Mlp> mlp_;
  std::unique_ptr<MoeLayer> moe_;
  SlotId rms1_, h1_, middle_, rms2_, h2_, d_h1_, d_middle_, d_h2_;
};

}  // namespace sluice::trainer
