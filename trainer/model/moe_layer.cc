#include "trainer/model/moe_layer.h"

#include <utility>

#include "kernels/core/status_macros.h"
#include "kernels/ops/block_quantize.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/low_rank.h"
#include "trainer/model/swiglu.h"

namespace sluice::trainer {
namespace {

kernels::RouterConfig MakeRouterConfig(const ModelConfig& config) {
  kernels::RouterConfig router;
  router.num_experts = config.n_routed_experts();
  router.experts_per_token = config.num_experts_per_tok();
  router.n_group = config.n_group();
  router.topk_group = config.topk_group();
  router.scoring_func = config.scoring_func() == "softmax" ? kernels::ScoringFunc::kSoftmax
                                                           : kernels::ScoringFunc::kSigmoid;
  if (config.topk_method() == "noaux_tc" && config.n_group() > 1) {
    router.group_score = kernels::GroupScore::kTopTwoSum;
  } else if (config.topk_method() == "group_limited_greedy") {
    router.group_score = kernels::GroupScore::kMax;
  }
  router.norm_topk_prob = config.norm_topk_prob();
  if (config.group_mask() == "zero") router.dropped_score = 0.0f;
  router.routed_scaling_factor = static_cast<float>(config.routed_scaling_factor());
  return router;
}

Parameter ExpertGateUp(const std::string& prefix, int first, int count, int64_t hidden,
                       int64_t width) {
  Parameter all;
  all.shape = {count, 2 * width, hidden};
  all.group = ParameterGroup::kExpert;
  for (int e = 0; e < count; ++e) {
    Parameter one =
        FusedGateUp(prefix + "experts." + std::to_string(first + e) + ".", hidden, width);
    for (NamedPiece& piece : one.pieces) {
      piece.offset += e * 2 * width * hidden;
      all.pieces.push_back(std::move(piece));
    }
  }
  return all;
}

Parameter ExpertDown(const std::string& prefix, int first, int count, int64_t hidden,
                     int64_t width) {
  Parameter all;
  all.shape = {count, hidden, width};
  all.group = ParameterGroup::kExpert;
  for (int e = 0; e < count; ++e) {
    all.pieces.push_back({prefix + "experts." + std::to_string(first + e) + ".down_proj.weight",
                          {hidden, width},
                          0,
                          e * hidden * width,
                          hidden * width});
  }
  return all;
}

}  // namespace

MoeLayer::MoeLayer(const ModelConfig& config, const std::string& prefix,
                   parallel::TokenExchange& exchange, const Recompute& recompute,
                   ParameterStore& store, TapeLayout& layout)
    : prefix_(prefix),
      hidden_(config.hidden_size()),
      width_(config.moe_intermediate_size()),
      has_bias_(config.topk_method() == "noaux_tc"),
      recompute_(recompute.swiglu),
      router_(MakeRouterConfig(config)),
      exchange_(exchange),
      gate_(store.AddTensor(prefix + "gate.weight", {config.n_routed_experts(), hidden_})),
      gate_up_(store.Add(ExpertGateUp(prefix, exchange.first_local_expert(),
                                      exchange.num_local_experts(), hidden_, width_)),
               layout),
      down_(store.Add(ExpertDown(prefix, exchange.first_local_expert(),
                                 exchange.num_local_experts(), hidden_, width_)),
            layout),
      gate_up_cache_(layout),
      plan_(layout.NewPlan()) {
  if (config.n_shared_experts() > 0) {
    shared_ = std::make_unique<Mlp>(prefix + "shared_experts.", hidden_,
                                    config.n_shared_experts() * width_, recompute, store, layout);
  }
  for (SlotId* slot :
       {&logits_, &scores_,    &expert_of_, &weights_,      &load_,      &balance_, &z_,
        &wire_,   &received_,  &rows_,      &gate_up_slot_, &activated_, &out_,     &returned_,
        &d_out_,  &d_weights_, &d_gate_up_, &d_rows_,       &d_logits_,  &row_ids_}) {
    *slot = layout.NewSlot();
  }
}

absl::Status MoeLayer::Allocate(kernels::DeviceContext& device) {
  const int64_t experts = router_.num_experts;
  ASSIGN_OR_RETURN(state_, device.Allocate(static_cast<size_t>(experts) * (8 + 8 + 4),
                                           kernels::MemoryTag::kParameters));
  counts_ = state_.View(DType::kI64, {experts});
  eval_counts_ = state_.View(DType::kI64, {experts}, experts * 8);
  bias_ = state_.View(DType::kF32, {experts}, experts * 16);
  return absl::OkStatus();
}

void MoeLayer::Route(const Context& context, ConstTensorView x) {
  const int64_t tokens = context.batch.num_tokens(), experts = router_.num_experts,
                k = router_.experts_per_token;
  const int64_t sequences = context.batch.num_sequences;
  Tape& tape = context.tape;
  TensorView logits = tape.New(logits_, DType::kF32, {tokens, experts});
  TensorView scores = tape.New(scores_, DType::kF32, {tokens, experts});
  gate_.Forward(context, x, logits);
  kernels::Route(context.stream, {.config = router_,
                                  .logits = logits,
                                  .bias = has_bias_ ? bias_ : TensorView(),
                                  .scores = scores,
                                  .expert_of = tape.New(expert_of_, DType::kI32, {tokens, k}),
                                  .weights = tape.New(weights_, DType::kF32, {tokens, k}),
                                  .counts = context.training ? counts_ : eval_counts_});
  const Temporary scratch(
      context.pool, DType::kU8,
      {static_cast<int64_t>(kernels::BalanceLossScratchBytes(context.stream, tokens, router_))});
  kernels::BalanceLoss(context.stream, {.config = router_,
                                        .logits = logits,
                                        .scores = scores,
                                        .starts = context.batch.sequence_starts,
                                        .load = tape.New(load_, DType::kF32, {sequences, experts}),
                                        .balance = tape.New(balance_, DType::kF64, {sequences}),
                                        .z = tape.New(z_, DType::kF64, {sequences}),
                                        .scratch = scratch.view()});
  if (gate_up_.fp8()) MakeWireRows(context, x);
}

// Codes of x with power-of-two scales: what is sent, and what the shared expert reads as well.
void MoeLayer::MakeWireRows(const Context& context, ConstTensorView x) {
  const int64_t tokens = x.extent(0);
  Temporary codes(context.pool, DType::kE4M3, {tokens, hidden_});
  Temporary scales(context.pool, DType::kF32, {tokens, kernels::NumTiles(hidden_)});
  const kernels::QuantizedRows quantized =
      shared_ != nullptr && shared_->gate_up().fp8()
          ? shared_->gate_up().NewInput(context, tokens)
          : kernels::QuantizedRows{codes.view(), scales.view()};
  kernels::QuantizeOptions options = gate_up_.fp8_options()->activations;
  options.format = kernels::ScaleFormat::kPowerOfTwo;
  kernels::Quantize(context.stream, {.x = x, .rows = quantized, .options = options});
  const TensorView wire =
      context.tape.New(wire_, DType::kU8, {tokens, kernels::WireRowBytes(hidden_)});
  kernels::PackWireRows(context.stream, {.rows = quantized, .wire = wire});
}

TensorView MoeLayer::NewExpertRows(const Context& context, SlotId slot, int64_t width) const {
  return context.tape.New(slot, context.dtype, {context.tape.plan(plan_).num_received, width});
}

absl::Status MoeLayer::Dispatch(const Context& context, ConstTensorView x) {
  Tape& tape = context.tape;
  parallel::ExchangePlan& plan = tape.plan(plan_);
  RETURN_IF_ERROR(exchange_.Plan(tape.Get(expert_of_), context.stream, plan));
  if (gate_up_.fp8()) {
    const TensorView received =
        tape.New(received_, DType::kU8, {plan.num_received, kernels::WireRowBytes(hidden_)});
    RETURN_IF_ERROR(exchange_.Dispatch(plan, tape.Get(wire_), received, context.stream));
    tape.Free(wire_);
  } else {
    RETURN_IF_ERROR(
        exchange_.Dispatch(plan, x, NewExpertRows(context, rows_, hidden_), context.stream));
  }
  return ExchangeRowIds(context);
}

// A row is numbered by its token and its expert, so masks do not depend on the layout.
absl::Status MoeLayer::ExchangeRowIds(const Context& context) {
  if (!adapters_drop_ || !context.training || !(gate_up_.has_adapter() || down_.has_adapter())) {
    return absl::OkStatus();
  }
  const MicrobatchInput& batch = context.batch;
  const parallel::ExchangePlan& plan = context.tape.plan(plan_);
  Temporary sent(context.pool, DType::kF32, {batch.num_tokens(), 2}),
      received(context.pool, DType::kF32, {plan.num_received, 2});
  kernels::SplitRowIds(context.stream, {.first = batch.first_sequence * batch.sequence_length,
                                        .parts = sent.view()});
  RETURN_IF_ERROR(exchange_.Dispatch(plan, sent.view(), received.view(), context.stream));
  kernels::ExpertRowIds(context.stream,
                        {.parts = received.view(),
                         .offsets = plan.offsets,
                         .ids = context.tape.New(row_ids_, DType::kI64, {plan.num_received}),
                         .first_expert = exchange_.first_local_expert(),
                         .num_experts = router_.num_experts});
  return absl::OkStatus();
}

Context MoeLayer::ForExperts(const Context& context) const {
  Context experts = context;
  if (context.tape.Has(row_ids_)) experts.row_ids = context.tape.Get(row_ids_);
  return experts;
}

void MoeLayer::Experts(const Context& context, ConstTensorView x, TensorView y) {
  Tape& tape = context.tape;
  const Context experts = ForExperts(context);
  const ConstTensorView offsets = tape.plan(plan_).offsets;
  if (gate_up_.fp8()) {
    const ConstTensorView received = tape.Get(received_);
    kernels::UnpackWireRows(context.stream, {.rows = gate_up_.NewInput(context, received.extent(0)),
                                             .wire = tape.Get(received_)});
    tape.Free(received_);
  }
  TensorView gate_up = NewExpertRows(context, gate_up_slot_, 2 * width_);
  gate_up_.GroupedForward(experts, tape.Find(rows_), offsets, gate_up);
  ApplySwiglu(context, gate_up, down_, activated_);
  down_.GroupedForward(experts, tape.Find(activated_), offsets,
                       NewExpertRows(context, out_, hidden_));
  if (recompute_) down_.FreeInput(context);
  if (recompute_ || down_.keeps_input()) tape.Free(activated_);
  if (context.training && gate_up_.caches_output()) {
    gate_up_cache_.Shrink(context, gate_up_slot_, gate_up_.quantized().row_tiles,
                          gate_up_.fp8_options()->activations);
  }
  if (shared_ != nullptr) shared_->Forward(context, x, y);
}

absl::Status MoeLayer::Combine(const Context& context, TensorView y) {
  Tape& tape = context.tape;
  const int64_t sent = context.batch.num_tokens() * router_.experts_per_token;
  TensorView returned = tape.New(returned_, context.dtype, {sent, hidden_});
  RETURN_IF_ERROR(exchange_.Combine(tape.plan(plan_), tape.Get(out_), tape.Get(weights_),
                                    shared_ != nullptr ? y : TensorView(), returned, y,
                                    context.stream));
  tape.Free(out_);
  return absl::OkStatus();
}

absl::Status MoeLayer::BackwardCombine(const Context& context, ConstTensorView dy) {
  Tape& tape = context.tape;
  TensorView d_out = NewExpertRows(context, d_out_, hidden_);
  TensorView d_weights = tape.New(d_weights_, DType::kF32, tape.Get(weights_).shape());
  RETURN_IF_ERROR(exchange_.CombineBackward(tape.plan(plan_), dy, tape.Get(returned_),
                                            tape.Get(weights_), d_out, d_weights, context.stream));
  tape.Free(returned_);
  return absl::OkStatus();
}

void MoeLayer::BackwardExperts(const Context& context, ConstTensorView dy, TensorView dx) {
  Tape& tape = context.tape;
  Stream& stream = context.stream;
  const parallel::ExchangePlan& plan = tape.plan(plan_);
  const Context experts = ForExperts(context);
  gate_up_cache_.Restore(context, gate_up_slot_, gate_up_.quantized().row_tiles);
  if (recompute_) {
    ApplySwiglu(context, tape.Get(gate_up_slot_), down_, activated_);
    if (down_.keeps_input()) tape.Free(activated_);
  }
  {
    Temporary d_activated(context.pool, context.dtype, {plan.num_received, width_});
    down_.GroupedBackwardInput(experts, tape.Get(d_out_), plan.offsets, d_activated.view());
    ApplySwigluGradient(context, d_activated.view(), tape.Get(gate_up_slot_), gate_up_,
                        plan.offsets, d_gate_up_);
  }
  tape.Free(gate_up_slot_);
  gate_up_.GroupedBackwardInput(experts, tape.Find(d_gate_up_), plan.offsets,
                                NewExpertRows(context, d_rows_, hidden_));
  if (down_.fp8()) tape.Free(d_out_);
  if (gate_up_.fp8()) tape.Free(d_gate_up_);
  BackwardRouter(context, dx);
  if (shared_ == nullptr) return;
  Temporary d_shared(context.pool, context.dtype, dx.shape());
  shared_->BackwardInput(context, dy, d_shared.view());
  kernels::Add(stream, {.a = d_shared.view(), .b = dx, .y = dx});
}

absl::Status MoeLayer::BackwardDispatch(const Context& context, TensorView dx) {
  Tape& tape = context.tape;
  RETURN_IF_ERROR(
      exchange_.DispatchBackward(tape.plan(plan_), tape.Get(d_rows_), dx, dx, context.stream));
  tape.Free(d_rows_);
  return absl::OkStatus();
}

void MoeLayer::BackwardRouter(const Context& context, TensorView dx) {
  Tape& tape = context.tape;
  const Shape shape = tape.Get(logits_).shape();
  Temporary d_logits(context.pool, DType::kF32, shape);
  kernels::RouterBackward(context.stream, {.config = router_,
                                           .logits = tape.Get(logits_),
                                           .scores = tape.Get(scores_),
                                           .expert_of = tape.Get(expert_of_),
                                           .dweights = tape.Get(d_weights_),
                                           .starts = context.batch.sequence_starts,
                                           .load = tape.Get(load_),
                                           .dlogits = d_logits.view(),
                                           .balance_scale = context.scales.balance,
                                           .z_scale = context.scales.z,
                                           .global_load_scale = context.scales.global_load});
  TensorView rounded = tape.New(d_logits_, context.dtype, shape);
  kernels::Cast(context.stream, {.from = d_logits.view(), .to = rounded});
  gate_.BackwardInput(context, rounded, dx);
  for (SlotId slot : {logits_, scores_, expert_of_, weights_, load_, balance_, z_, d_weights_}) {
    tape.Free(slot);
  }
}

void MoeLayer::BackwardExpertWeights(const Context& context) {
  Tape& tape = context.tape;
  const Context experts = ForExperts(context);
  const ConstTensorView offsets = tape.plan(plan_).offsets;
  down_.GroupedBackwardWeight(experts, tape.Find(d_out_), tape.Find(activated_), offsets);
  gate_up_.GroupedBackwardWeight(experts, tape.Find(d_gate_up_), tape.Find(rows_), offsets);
  for (SlotId slot : {d_out_, activated_, d_gate_up_, rows_, row_ids_}) tape.Free(slot);
}

void MoeLayer::BackwardWeight(const Context& context, ConstTensorView x, ConstTensorView dy) {
  if (shared_ != nullptr) shared_->BackwardWeight(context, x, dy);
  gate_.BackwardWeight(context, context.tape.Get(d_logits_), x);
  context.tape.Free(d_logits_);
}

void MoeLayer::ForEachLinear(const LinearVisitor& visit) {
  visit(gate_);
  visit(gate_up_);
  visit(down_);
  if (shared_ != nullptr) shared_->ForEachLinear(visit);
}

}  // namespace sluice::trainer
