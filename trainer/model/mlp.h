// The SwiGLU feed-forward network: y = W_down (silu(W_gate x) * W_up x).   T tokens, H hidden, I
// width
#pragma once

#include <string>

#include "trainer/model/attention.h"
#include "trainer/model/context.h"
#include "trainer/model/fp8_cache.h"
#include "trainer/model/linear.h"

namespace sluice::trainer {

class Mlp {
 public:
  // `prefix` is "model.layers.N.mlp." or "model.layers.N.mlp.shared_experts.".
  Mlp(const std::string& prefix, int64_t hidden, int64_t width, const Recompute& recompute,
      ParameterStore& store, TapeLayout& layout);

  void Forward(const Context& context, ConstTensorView x, TensorView y);
  void BackwardInput(const Context& context, ConstTensorView dy, TensorView dx);
  void BackwardWeight(const Context& context, ConstTensorView x, ConstTensorView dy);
  void ForEachLinear(const LinearVisitor& visit);
  // Reads x; for callers that have its codes already, or want to know who keeps x.
  const Linear& gate_up() const { return gate_up_; }

 private:
  const int64_t width_;
  const bool recompute_;
  Linear gate_up_, down_;
  Fp8Cache gate_up_cache_;
  SlotId gate_up_slot_, activated_, d_gate_up_;
};

// gate_proj above up_proj in one weight [2 I, H].
Parameter FusedGateUp(const std::string& prefix, int64_t hidden, int64_t width);

}  // namespace sluice::trainer
