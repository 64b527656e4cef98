// A Mixture-of-Experts layer (DeepSeekMoE, arXiv 2401.06066; DeepSeek-V3 report section 2.1.2):
//   y = shared(x) + sum over the chosen experts, ascending, of weight * expert(x)
// T tokens, H hidden, E experts, K per token, I expert width, R rows received by this rank's L
// experts
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "kernels/ops/router.h"
#include "parallel/expert/token_exchange.h"
#include "trainer/model/attention.h"
#include "trainer/model/context.h"
#include "trainer/model/fp8_cache.h"
#include "trainer/model/linear.h"
#include "trainer/model/mlp.h"

namespace sluice::trainer {

class MoeLayer {
 public:
  // `prefix` is "model.layers.N.mlp."; `exchange` outlives the layer.
  MoeLayer(const ModelConfig& config, const std::string& prefix, parallel::TokenExchange& exchange,
           const Recompute& recompute, ParameterStore& store, TapeLayout& layout);

  // The gate's state: selection bias and token counts.
  absl::Status Allocate(kernels::DeviceContext& device);

  // The forward in four steps, so that they can run on two streams: Route and Experts compute,
  // Dispatch and Combine communicate. x and y are the same tensors in all of them.
  void Route(const Context& context, ConstTensorView x);
  absl::Status Dispatch(const Context& context, ConstTensorView x);
  void Experts(const Context& context, ConstTensorView x, TensorView y);
  absl::Status Combine(const Context& context, TensorView y);
  // The backward: BackwardExperts computes (experts, gate and shared experts), the others
  // communicate. dx is whole after BackwardDispatch.
  absl::Status BackwardCombine(const Context& context, ConstTensorView dy);
  void BackwardExperts(const Context& context, ConstTensorView dy, TensorView dx);
  absl::Status BackwardDispatch(const Context& context, TensorView dx);
  // Weight gradients: of the routed experts, after BackwardExperts; then of the rest.
  void BackwardExpertWeights(const Context& context);
  void BackwardWeight(const Context& context, ConstTensorView x, ConstTensorView dy);
  void ForEachLinear(const LinearVisitor& visit);
  // Whether adapters of the experts drop inputs in training: then rows' numbers are exchanged.
  void set_adapters_drop(bool drop) { adapters_drop_ = drop; }

  const std::string& prefix() const { return prefix_; }
  const kernels::RouterConfig& router() const { return router_; }
  bool has_bias() const { return has_bias_; }
  TensorView bias() const {
    return bias_;
  }  // [E] f32, e_score_correction_bias; not trained by gradients
  TensorView counts() const {
    return counts_;
  }  // [E] i64, tokens routed since it was last cleared, of this rank
  // Of the last Forward of a microbatch: losses of the gate by sequence, without their factors.
  ConstTensorView balance(const Context& context) const {
    return context.tape.Get(balance_);
  }                                                                                 // [S] f64
  ConstTensorView z(const Context& context) const { return context.tape.Get(z_); }  // [S] f64
  ConstTensorView scores(const Context& context) const {
    return context.tape.Get(scores_);
  }  // [T, E] f32
  // What the gate chose and with which weights, for reports; valid until BackwardExperts.
  ConstTensorView expert_of(const Context& context) const { return context.tape.Get(expert_of_); }

  ConstTensorView weights(const Context& context) const { return context.tape.Get(weights_); }

 private:
  absl::Status ExchangeRowIds(const Context& context);
  Context ForExperts(const Context& context) const;
  void MakeWireRows(const Context& context, ConstTensorView x);
  void BackwardRouter(const Context& context, TensorView dx);
  TensorView NewExpertRows(const Context& context, SlotId slot, int64_t width) const;

  const std::string prefix_;
  const int64_t hidden_, width_;
  const bool has_bias_, recompute_;
  kernels::RouterConfig router_;
  parallel::TokenExchange& exchange_;
  Linear gate_;
  Linear gate_up_, down_;  // [L, 2 I, H], [L, H, I]
  Fp8Cache gate_up_cache_;
  std::unique_ptr<Mlp> shared_;  // null without shared experts
  kernels::Buffer state_;
  TensorView bias_, counts_, eval_counts_;
  bool adapters_drop_ = false;
  int plan_;
  SlotId logits_, scores_, expert_of_, weights_, load_, balance_, z_, wire_, received_, rows_,
      gate_up_slot_, activated_, out_, returned_, d_out_, d_weights_, d_gate_up_, d_rows_,
      d_logits_, row_ids_;
};

}  // namespace sluice::trainer
