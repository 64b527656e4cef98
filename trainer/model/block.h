// One pre-norm decoder layer: x + attention(norm(x)), then that + mlp(norm(that)).   T tokens, H
// hidden
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
};

class Block {
 public:
  // Layer `index`; MoE when `is_moe`.
  Block(const BuildContext& build, int index, bool is_moe);

  absl::Status Forward(const Context& context, ConstTensorView x, TensorView y);
  // x and dy must live until BackwardWeight.
  absl::Status BackwardInput(const Context& context, ConstTensorView x, ConstTensorView dy,
                             TensorView dx);
  void BackwardWeight(const Context& context, ConstTensorView x, ConstTensorView dy);
  void ForEachLinear(const LinearVisitor& visit);
  MoeLayer* moe() { return moe_.get(); }  // null for a dense layer

 private:
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
