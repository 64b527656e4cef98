#include "trainer/model/block.h"

#include "kernels/core/status_macros.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/rms_norm.h"

namespace sluice::trainer {

Block::Block(const BuildContext& build, int index, bool is_moe)
    : hidden_(build.config.hidden_size()),
      eps_(static_cast<float>(build.config.rms_norm_eps())),
      recompute_norm_(build.recompute.norm) {
  const std::string prefix = "model.layers." + std::to_string(index) + ".";
  attention_norm_ = &build.store.AddNorm(prefix + "input_layernorm.weight", hidden_);
  attention_ = MakeAttention(build.config, prefix + "self_attn.", build.rope, build.recompute,
                             build.store, build.layout);
  mlp_norm_ = &build.store.AddNorm(prefix + "post_attention_layernorm.weight", hidden_);
  if (is_moe) {
    moe_ = std::make_unique<MoeLayer>(build.config, prefix + "mlp.", *build.exchange,
                                      build.recompute, build.store, build.layout);
  } else {
    mlp_ = std::make_unique<Mlp>(prefix + "mlp.", hidden_, build.config.intermediate_size(),
                                 build.recompute, build.store, build.layout);
  }
  for (SlotId* slot : {&rms1_, &h1_, &middle_, &rms2_, &h2_, &d_h1_, &d_middle_, &d_h2_}) {
    *slot = build.layout.NewSlot();
  }
}

absl::Status Block::Forward(const Context& context, int phase, ConstTensorView x, TensorView y) {
  Tape& tape = context.tape;
  switch (static_cast<Phase>(phase)) {
    case kAttention:
      ForwardAttention(context, x);
      if (moe_ != nullptr) {
        moe_->Route(context, tape.Get(h2_));
      } else {
        mlp_->Forward(context, tape.Get(h2_), y);
        FinishForward(context, y);
      }
      break;
    case kDispatch:
      return moe_->Dispatch(context, tape.Get(h2_));
    case kExperts:
      moe_->Experts(context, tape.Get(h2_), y);
      break;
    case kCombine:
      RETURN_IF_ERROR(moe_->Combine(context, y));
      FinishForward(context, y);
      break;
  }
  return absl::OkStatus();
}

void Block::ForwardAttention(const Context& context, ConstTensorView x) {
  Tape& tape = context.tape;
  const int64_t tokens = context.batch.num_tokens();
  TensorView h1 = context.NewRows(h1_, hidden_);
  kernels::RmsNorm(context.stream, {.x = x,
                                    .w = attention_norm_->value,
                                    .y = h1,
                                    .inverse_rms = tape.New(rms1_, DType::kF32, {tokens}),
                                    .eps = eps_});
  TensorView middle = context.NewRows(middle_, hidden_), h2 = context.NewRows(h2_, hidden_);
  attention_->Forward(context, h1, middle);
  kernels::RmsNorm(context.stream, {.x = middle,
                                    .w = mlp_norm_->value,
                                    .y = h2,
                                    .inverse_rms = tape.New(rms2_, DType::kF32, {tokens}),
                                    .eps = eps_,
                                    .residual = x,
                                    .residual_out = middle});
  if (recompute_norm_ || attention_->KeepsInput()) tape.Free(h1_);
}

void Block::FinishForward(const Context& context, TensorView y) {
  kernels::Add(context.stream, {.a = context.tape.Get(middle_), .b = y, .y = y});
  const bool kept = moe_ == nullptr && mlp_->gate_up().keeps_input();
  if (recompute_norm_ || kept) context.tape.Free(h2_);
}

// Normalises again: the same bits as in forward. What the modules keep in FP8 is not needed.
void Block::RestoreNormed(const Context& context, ConstTensorView x) {
  Tape& tape = context.tape;
  if (!attention_->KeepsInput()) {
    kernels::RmsNorm(context.stream, {.x = x,
                                      .w = attention_norm_->value,
                                      .y = context.NewRows(h1_, hidden_),
                                      .inverse_rms = tape.Get(rms1_),
                                      .eps = eps_});
  }
  if (moe_ == nullptr && mlp_->gate_up().keeps_input()) return;
  kernels::RmsNorm(context.stream, {.x = tape.Get(middle_),
                                    .w = mlp_norm_->value,
                                    .y = context.NewRows(h2_, hidden_),
                                    .inverse_rms = tape.Get(rms2_),
                                    .eps = eps_});
}

absl::Status Block::BackwardInput(const Context& context, int phase, ConstTensorView x,
                                  ConstTensorView dy, TensorView dx) {
  Tape& tape = context.tape;
  switch (static_cast<Phase>(phase)) {
    case kCombine:
      return moe_->BackwardCombine(context, dy);
    case kExperts:
      moe_->BackwardExperts(context, dy, context.NewRows(d_h2_, hidden_));
      break;
    case kDispatch:
      return moe_->BackwardDispatch(context, tape.Get(d_h2_));
    case kAttention:
      if (moe_ == nullptr) mlp_->BackwardInput(context, dy, context.NewRows(d_h2_, hidden_));
      BackwardAttention(context, x, dy, dx);
      break;
  }
  return absl::OkStatus();
}

void Block::BackwardAttention(const Context& context, ConstTensorView x, ConstTensorView dy,
                              TensorView dx) {
  Tape& tape = context.tape;
  if (recompute_norm_) RestoreNormed(context, x);
  TensorView d_middle = context.NewRows(d_middle_, hidden_);
  kernels::RmsNormBackwardInput(context.stream, {.dy = tape.Get(d_h2_),
                                                 .x = tape.Get(middle_),
                                                 .w = mlp_norm_->value,
                                                 .inverse_rms = tape.Get(rms2_),
                                                 .dx = d_middle,
                                                 .dx_add = dy});
  TensorView d_h1 = context.NewRows(d_h1_, hidden_);
  attention_->BackwardInput(context, d_middle, d_h1);
  kernels::RmsNormBackwardInput(context.stream, {.dy = d_h1,
                                                 .x = x,
                                                 .w = attention_norm_->value,
                                                 .inverse_rms = tape.Get(rms1_),
                                                 .dx = dx,
                                                 .dx_add = d_middle});
  if (attention_->KeepsOutputGradient()) tape.Free(d_middle_);
}

void Block::BackwardWeight(const Context& context, int phase, ConstTensorView x,
                           ConstTensorView dy) {
  Tape& tape = context.tape;
  if (phase == kExperts) moe_->BackwardExpertWeights(context);
  if (phase != kAttention) return;
  if (moe_ != nullptr) {
    moe_->BackwardWeight(context, tape.Get(h2_), dy);
  } else {
    mlp_->BackwardWeight(context, tape.Find(h2_), dy);
  }
  if (mlp_norm_->trained) {
    kernels::RmsNormBackwardWeight(context.stream, {.dy = tape.Get(d_h2_),
                                                    .x = tape.Get(middle_),
                                                    .inverse_rms = tape.Get(rms2_),
                                                    .dw = mlp_norm_->gradient});
  }
  attention_->BackwardWeight(context, tape.Find(h1_), tape.Find(d_middle_));
  if (attention_norm_->trained) {
    kernels::RmsNormBackwardWeight(context.stream, {.dy = tape.Get(d_h1_),
                                                    .x = x,
                                                    .inverse_rms = tape.Get(rms1_),
                                                    .dw = attention_norm_->gradient});
  }
  for (SlotId slot : {rms1_, h1_, middle_, rms2_, h2_, d_h1_, d_middle_, d_h2_}) tape.Free(slot);
}

void Block::ForEachLinear(const LinearVisitor& visit) {
  attention_->ForEachLinear(visit);
  if (moe_ != nullptr) {
    moe_->ForEachLinear(visit);
  } else {
    mlp_->ForEachLinear(visit);
  }
}

}  // namespace sluice::trainer
