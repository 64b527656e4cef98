// The attention of a block: multi-head latent attention (MLA) or grouped-query attention.   T
// tokens, H hidden
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "kernels/core/device.h"
#include "trainer/model/context.h"
#include "trainer/model/linear.h"
#include "trainer/model/model.pb.h"
#include "trainer/model/parameters.h"
#include "trainer/model/rope_table.h"

namespace sluice::trainer {

// Which intermediate results are recomputed in backward instead of kept.
struct Recompute {
  bool norm = false, mla_up = false, swiglu = false;
};

using LinearVisitor = std::function<void(Linear&)>;

class AttentionLayer {
 public:
  virtual ~AttentionLayer() = default;
  // y [T, H] = attention(x [T, H]).
  virtual void Forward(const Context& context, ConstTensorView x, TensorView y) = 0;
  // dx from dy. Frees what BackwardWeight will not read.
  virtual void BackwardInput(const Context& context, ConstTensorView dy, TensorView dx) = 0;
  // Adds to the gradients; x and dy as before. Frees the rest.
  virtual void BackwardWeight(const Context& context, ConstTensorView x, ConstTensorView dy) = 0;
  virtual void ForEachLinear(const LinearVisitor& visit) = 0;
  // In FP8: BackwardWeight takes null views of x, of dy.
  virtual bool KeepsInput() const = 0;
  virtual bool KeepsOutputGradient() const = 0;
};

// `prefix` is "model.layers.N.self_attn."; `rope` outlives the layer. MLA when
// config.kv_lora_rank() > 0.
std::unique_ptr<AttentionLayer> MakeAttention(const ModelConfig& config, const std::string& prefix,
                                              const RopeTable& rope, const Recompute& recompute,
                                              ParameterStore& store, TapeLayout& layout);
std::unique_ptr<AttentionLayer> MakeMla(const ModelConfig& config, const std::string& prefix,
                                        const RopeTable& rope, const Recompute& recompute,
                                        ParameterStore& store, TapeLayout& layout);
std::unique_ptr<AttentionLayer> MakeGqa(const ModelConfig& config, const std::string& prefix,
                                        const RopeTable& rope, ParameterStore& store,
                                        TapeLayout& layout);

}  // namespace sluice::trainer
