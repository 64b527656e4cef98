// Grouped-query attention with optional RMSNorm on queries and keys: per head (Qwen3) or over the
// full width (OLMoE).
//   A query heads, G key/value heads, D head_dim
#include <cmath>

#include "kernels/ops/attention.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/rope.h"
#include "trainer/model/attention.h"
#include "trainer/model/e5m6_cache.h"

namespace sluice::trainer {
namespace {

// A projection of x to heads, optionally normalised, rotated.
class RotatedProjection {
 public:
  RotatedProjection(const ModelConfig& config, const std::string& prefix, const std::string& letter,
                    int64_t heads, ParameterStore& store, TapeLayout& layout)
      : heads_(heads),
        head_(config.head_dim()),
        norm_width_(config.qk_norm() == "head" ? head_ : heads_ * head_),
        eps_(static_cast<float>(config.rms_norm_eps())),
        projection_(store.AddTensor(prefix + letter + "_proj.weight",
                                    {heads_ * head_, config.hidden_size()}),
                    layout),
        norm_(config.qk_norm() == "none"
                  ? nullptr
                  : &store.AddNorm(prefix + letter + "_norm.weight", norm_width_)) {
    for (SlotId* slot : {&raw_, &rms_, &rotated_, &d_normed_, &d_raw_}) *slot = layout.NewSlot();
  }

  TensorView Forward(const Context& context, const RopeTable& rope, ConstTensorView x) {
    TensorView rotated = context.NewRows(rotated_, heads_ * head_);
    if (norm_ == nullptr) {
      projection_.Forward(context, x, rotated);
    } else {
      TensorView raw = context.NewRows(raw_, heads_ * head_);
      projection_.Forward(context, x, raw);
      kernels::RmsNorm(context.stream,
                       {.x = NormRows(raw),
                        .w = norm_->value,
                        .y = NormRows(rotated),
                        .inverse_rms = context.tape.New(rms_, DType::kF32, {NumNormRows(context)}),
                        .eps = eps_});
    }
    Rotate(context, rope, rotated, false);
    return rotated;
  }

  TensorView rotated(const Context& context) const { return context.tape.Get(rotated_); }
  void FreeRotated(const Context& context) { context.tape.Free(rotated_); }
  // Where attention's backward writes the gradient of the rotated heads.
  TensorView NewGradient(const Context& context) {
    return context.NewRows(norm_ == nullptr ? d_raw_ : d_normed_, heads_ * head_);
  }

  void BackwardInput(const Context& context, const RopeTable& rope, TensorView dx) {
    Tape& tape = context.tape;
    if (norm_ == nullptr) {
      Rotate(context, rope, tape.Get(d_raw_), true);
    } else {
      TensorView d_normed = tape.Get(d_normed_), d_raw = context.NewRows(d_raw_, heads_ * head_);
      Rotate(context, rope, d_normed, true);
      kernels::RmsNormBackwardInput(context.stream, {.dy = NormRows(d_normed),
                                                     .x = NormRows(tape.Get(raw_)),
                                                     .w = norm_->value,
                                                     .inverse_rms = tape.Get(rms_),
                                                     .dx = NormRows(d_raw)});
    }
    projection_.BackwardInput(context, tape.Get(d_raw_), dx);
    if (projection_.fp8()) tape.Free(d_raw_);
  }

  void BackwardWeight(const Context& context, ConstTensorView x) {
    Tape& tape = context.tape;
    projection_.BackwardWeight(context, tape.Find(d_raw_), x);
    if (norm_ != nullptr && norm_->trained) {
      kernels::RmsNormBackwardWeight(context.stream, {.dy = NormRows(tape.Get(d_normed_)),
                                                      .x = NormRows(tape.Get(raw_)),
                                                      .inverse_rms = tape.Get(rms_),
                                                      .dw = norm_->gradient});
    }
    for (SlotId slot : {raw_, rms_, d_normed_, d_raw_}) tape.Free(slot);
  }

  Linear& linear() { return projection_; }
  const Linear& linear() const { return projection_; }

 private:
  int64_t NumNormRows(const Context& context) const {
    return context.batch.num_tokens() * heads_ * head_ / norm_width_;
  }
  TensorView NormRows(const TensorView& rows) const {
    return rows.Reshape({rows.num_elements() / norm_width_, norm_width_});
  }
  void Rotate(const Context& context, const RopeTable& rope, TensorView x, bool inverse) const {
    kernels::Rope(context.stream, {.x = x,
                                   .y = x,
                                   .cos = rope.cos(),
                                   .sin = rope.sin(),
                                   .positions = context.batch.positions,
                                   .num_heads = heads_,
                                   .head_stride = head_,
                                   .y_head_stride = head_,
                                   .layout = kernels::RopeLayout::kHalf,
                                   .inverse = inverse});
  }

  const int64_t heads_, head_, norm_width_;
  const float eps_;
  Linear projection_;
  Parameter* norm_;
  SlotId raw_, rms_, rotated_, d_normed_, d_raw_;
};

class Gqa : public AttentionLayer {
 public:
  Gqa(const ModelConfig& config, const std::string& prefix, const RopeTable& rope,
      ParameterStore& store, TapeLayout& layout)
      : heads_(config.num_attention_heads()),
        kv_heads_(config.num_key_value_heads()),
        head_(config.head_dim()),
        scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_)))),
        rope_(rope),
        q_(config, prefix, "q", heads_, store, layout),
        k_(config, prefix, "k", kv_heads_, store, layout),
        v_(store.AddTensor(prefix + "v_proj.weight", {kv_heads_ * head_, config.hidden_size()}),
           layout),
        out_(store.AddTensor(prefix + "o_proj.weight", {config.hidden_size(), heads_ * head_}),
             layout, Linear::Keeps::kNothing),
        o_cache_(layout) {
    k_.linear().ShareInputOf(q_.linear());
    v_.ShareInputOf(q_.linear());
    for (SlotId* slot : {&v_slot_, &o_, &lse_, &dv_}) *slot = layout.NewSlot();
  }

  void Forward(const Context& context, ConstTensorView x, TensorView y) override {
    TensorView q = q_.Forward(context, rope_, x), k = k_.Forward(context, rope_, x);
    TensorView v = context.NewRows(v_slot_, kv_heads_ * head_);
    v_.Forward(context, x, v);
    TensorView o = context.NewRows(o_, heads_ * head_);
    TensorView lse = context.tape.New(lse_, DType::kF32, {context.batch.num_tokens(), heads_});
    Temporary scratch(context.pool, DType::kU8, {ScratchBytes(context)});
    kernels::Attention(context.stream, {.q = Heads(q),
                                        .k = Heads(k),
                                        .v = Heads(v),
                                        .starts = context.batch.starts,
                                        .o = Heads(o),
                                        .log_sum_exp = lse,
                                        .scale = scale_,
                                        .scratch = scratch.view(),
                                        .sequence_length = context.batch.attention_length()});
    out_.Forward(context, o, y);
    if (context.training && out_.caches_e5m6_input()) o_cache_.Shrink(context, o_);
  }

  void BackwardInput(const Context& context, ConstTensorView dy, TensorView dx) override {
    Tape& tape = context.tape;
    TensorView dq = q_.NewGradient(context), dk = k_.NewGradient(context);
    TensorView dv = context.NewRows(dv_, kv_heads_ * head_);
    o_cache_.Restore(context, o_, heads_ * head_);
    {
      Temporary d_o(context.pool, context.dtype, {context.batch.num_tokens(), heads_ * head_});
      out_.BackwardInput(context, dy, d_o.view());
      Temporary scratch(context.pool, DType::kU8, {ScratchBytes(context)});
      kernels::AttentionBackward(context.stream, {.dout = Heads(d_o.view()),
                                                  .q = Heads(q_.rotated(context)),
                                                  .k = Heads(k_.rotated(context)),
                                                  .v = Heads(tape.Get(v_slot_)),
                                                  .starts = context.batch.starts,
                                                  .o = Heads(tape.Get(o_)),
                                                  .log_sum_exp = tape.Get(lse_),
                                                  .dq = Heads(dq),
                                                  .dk = Heads(dk),
                                                  .dv = Heads(dv),
                                                  .scale = scale_,
                                                  .scratch = scratch.view()});
    }
    o_cache_.Drop(context, o_);
    q_.FreeRotated(context);
    k_.FreeRotated(context);
    tape.Free(v_slot_);
    tape.Free(lse_);
    // dx in FP32 would need a wider buffer; three products are rounded and added in a fixed order
    // instead.
    Temporary part(context.pool, context.dtype, dx.shape());
    q_.BackwardInput(context, rope_, dx);
    k_.BackwardInput(context, rope_, part.view());
    kernels::Add(context.stream, {.a = dx, .b = part.view(), .y = dx});
    v_.BackwardInput(context, dv, part.view());
    kernels::Add(context.stream, {.a = dx, .b = part.view(), .y = dx});
    if (v_.fp8()) tape.Free(dv_);
  }

  void BackwardWeight(const Context& context, ConstTensorView x, ConstTensorView dy) override {
    o_cache_.Restore(context, o_, heads_ * head_);
    out_.BackwardWeight(context, dy, context.tape.Get(o_));
    o_cache_.Free(context);
    k_.BackwardWeight(context, x);
    v_.BackwardWeight(context, context.tape.Find(dv_), x);
    q_.BackwardWeight(context, x);  // last: it owns the codes of x
    for (SlotId slot : {o_, dv_}) context.tape.Free(slot);
  }

  bool KeepsInput() const override {
    return q_.linear().keeps_input() && k_.linear().keeps_input() && v_.keeps_input();
  }
  bool KeepsOutputGradient() const override { return out_.fp8(); }

  void ForEachLinear(const LinearVisitor& visit) override {
    for (Linear* linear : {&q_.linear(), &k_.linear(), &v_, &out_}) visit(*linear);
  }

 private:
  TensorView Heads(const TensorView& rows) const {
    return rows.Reshape({rows.extent(0), rows.extent(1) / head_, head_});
  }
  int64_t ScratchBytes(const Context& context) const {
    return static_cast<int64_t>(kernels::AttentionScratchBytes(
        context.stream, context.batch.num_tokens(), heads_, kv_heads_, head_, head_));
  }

  const int64_t heads_, kv_heads_, head_;
  const float scale_;
  const RopeTable& rope_;
  RotatedProjection q_, k_;
  Linear v_, out_;
  E5m6Cache o_cache_;
  SlotId v_slot_, o_, lse_, dv_;
};

}  // namespace

std::unique_ptr<AttentionLayer> MakeGqa(const ModelConfig& config, const std::string& prefix,
                                        const RopeTable& rope, ParameterStore& store,
                                        TapeLayout& layout) {
  return std::make_unique<Gqa>(config, prefix, rope, store, layout);
}

}  // namespace sluice::trainer
