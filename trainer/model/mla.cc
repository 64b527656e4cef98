// Multi-head latent attention in its expanded form (DeepSeek-V3 report section 2.1.1), for
// training.
//   A heads, N = qk_nope, R = qk_rope, V = v_head_dim, D = N + R, Q = q_lora (or A D without
//   q_lora), C = kv_lora
#include <cmath>

#include "kernels/ops/attention.h"
#include "kernels/ops/copy_heads.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/rope.h"
#include "trainer/model/attention.h"
#include "trainer/model/e5m6_cache.h"

namespace sluice::trainer {
namespace {

constexpr float kInnerNormEps =
    1e-6f;  // of q_a_layernorm and kv_a_layernorm, whatever rms_norm_eps is

// q_a_proj (or q_proj) and kv_a_proj_with_mqa read the same input: one weight, one product.
Parameter& AddDownProjection(const ModelConfig& config, const std::string& prefix, int64_t q_width,
                             ParameterStore& store) {
  const int64_t hidden = config.hidden_size();
  const int64_t kv_width = config.kv_lora_rank() + config.qk_rope_head_dim();
  Parameter parameter;
  parameter.shape = {q_width + kv_width, hidden};
  const std::string q_name = config.q_lora_rank() > 0 ? "q_a_proj.weight" : "q_proj.weight";
  parameter.pieces = {{prefix + q_name, {q_width, hidden}, 0, 0, q_width * hidden},
                      {prefix + "kv_a_proj_with_mqa.weight",
                       {kv_width, hidden},
                       0,
                       q_width * hidden,
                       kv_width * hidden}};
  return store.Add(std::move(parameter));
}

// kv_b_proj's rows are [nope | v] head by head; here all heads' nope come first, then all heads' v,
// so that both are plain column ranges of the product.
Parameter& AddKeyValueProjection(const ModelConfig& config, const std::string& prefix,
                                 ParameterStore& store) {
  const int64_t heads = config.num_attention_heads(), rank = config.kv_lora_rank();
  const int64_t nope = config.qk_nope_head_dim(), v = config.v_head_dim();
  const std::vector<int64_t> shape = {heads * (nope + v), rank};
  Parameter parameter;
  parameter.shape = {heads * (nope + v), rank};
  for (int64_t a = 0; a < heads; ++a) {
    parameter.pieces.push_back(
        {prefix + "kv_b_proj.weight", shape, a * (nope + v) * rank, a * nope * rank, nope * rank});
  }
  for (int64_t a = 0; a < heads; ++a) {
    parameter.pieces.push_back({prefix + "kv_b_proj.weight", shape, (a * (nope + v) + nope) * rank,
                                (heads * nope + a * v) * rank, v * rank});
  }
  return store.Add(std::move(parameter));
}

class Mla : public AttentionLayer {
 public:
  Mla(const ModelConfig& config, const std::string& prefix, const RopeTable& rope,
      const Recompute& recompute, ParameterStore& store, TapeLayout& layout)
      : heads_(config.num_attention_heads()),
        nope_(config.qk_nope_head_dim()),
        rotary_(config.qk_rope_head_dim()),
        v_(config.v_head_dim()),
        head_(nope_ + rotary_),
        kv_rank_(config.kv_lora_rank()),
        has_q_lora_(config.q_lora_rank() > 0),
        q_width_(has_q_lora_ ? config.q_lora_rank() : heads_ * head_),
        scale_(static_cast<float>(
            YarnSoftmaxFactor(config.has_rope_scaling() ? &config.rope_scaling() : nullptr) /
            std::sqrt(static_cast<double>(head_)))),
        recompute_up_(recompute.mla_up),
        rope_layout_(config.rope_interleave() ? kernels::RopeLayout::kInterleaved
                                              : kernels::RopeLayout::kHalf),
        rope_(rope),
        down_(AddDownProjection(config, prefix, q_width_, store), layout),
        q_norm_(has_q_lora_ ? &store.AddNorm(prefix + "q_a_layernorm.weight", q_width_) : nullptr),
        q_up_(has_q_lora_ ? &store.AddTensor(prefix + "q_b_proj.weight", {heads_ * head_, q_width_})
                          : nullptr),
        kv_norm_(&store.AddNorm(prefix + "kv_a_layernorm.weight", kv_rank_)),
        kv_up_(AddKeyValueProjection(config, prefix, store), layout),
        out_(store.AddTensor(prefix + "o_proj.weight", {config.hidden_size(), heads_ * v_}), layout,
             Linear::Keeps::kNothing),
        o_cache_(layout),
        q_up_linear_(has_q_lora_ ? std::make_unique<Linear>(*q_up_, layout) : nullptr) {
    for (SlotId* slot : {&a_, &q_rms_, &c_q_, &kv_rms_, &c_kv_, &q_, &k_, &kv_, &o_, &lse_, &da_,
                         &dq_, &dkv_, &dc_q_, &dc_kv_}) {
      *slot = layout.NewSlot();
    }
  }

  void Forward(const Context& context, ConstTensorView x, TensorView y) override {
    const int64_t tokens = context.batch.num_tokens();
    TensorView a = context.NewRows(a_, q_width_ + kv_rank_ + rotary_);
    down_.Forward(context, x, a);
    NormDown(context, a);
    Expand(context);
    TensorView o = context.NewRows(o_, heads_ * v_);
    TensorView lse = context.tape.New(lse_, DType::kF32, {tokens, heads_});
    Temporary scratch(context.pool, DType::kU8, {ScratchBytes(context)});
    kernels::Attention(context.stream, {.q = Heads(context.tape.Get(q_), head_),
                                        .k = Heads(context.tape.Get(k_), head_),
                                        .v = Values(context.tape.Get(kv_)),
                                        .starts = context.batch.starts,
                                        .o = Heads(o, v_),
                                        .log_sum_exp = lse,
                                        .scale = scale_,
                                        .scratch = scratch.view(),
                                        .sequence_length = context.batch.attention_length()});
    out_.Forward(context, o, y);
    if (context.training && out_.caches_e5m6_input()) o_cache_.Shrink(context, o_);
    if (recompute_up_) FreeExpanded(context);
    if (has_q_lora_ && q_up().keeps_input()) context.tape.Free(c_q_);
    if (kv_up_.keeps_input()) context.tape.Free(c_kv_);
  }

  void BackwardInput(const Context& context, ConstTensorView dy, TensorView dx) override {
    Tape& tape = context.tape;
    if (recompute_up_) Expand(context);
    o_cache_.Restore(context, o_, heads_ * v_);
    TensorView da = context.NewRows(da_, q_width_ + kv_rank_ + rotary_);
    TensorView dq = has_q_lora_ ? context.NewRows(dq_, heads_ * head_) : da.Columns(0, q_width_);
    TensorView dkv = context.NewRows(dkv_, heads_ * (nope_ + v_));
    {
      Temporary d_o(context.pool, context.dtype, {context.batch.num_tokens(), heads_ * v_});
      out_.BackwardInput(context, dy, d_o.view());
      Temporary dk(context.pool, context.dtype, {context.batch.num_tokens(), heads_ * head_});
      AttendBackward(context, d_o.view(), dq, dk.view(), dkv);
      o_cache_.Drop(context, o_);
      FreeExpanded(context);
      tape.Free(lse_);
      CollectKeyGradient(context, dk.view(), dkv, da.Columns(q_width_ + kv_rank_, rotary_));
    }
    ConstTensorView a = tape.Get(a_);
    if (has_q_lora_) {
      TensorView dc_q = context.NewRows(dc_q_, q_width_);
      q_up().BackwardInput(context, dq, dc_q);
      if (q_up().fp8()) tape.Free(dq_);
      kernels::RmsNormBackwardInput(context.stream, {.dy = dc_q,
                                                     .x = a.Columns(0, q_width_),
                                                     .w = q_norm_->value,
                                                     .inverse_rms = tape.Get(q_rms_),
                                                     .dx = da.Columns(0, q_width_)});
    }
    TensorView dc_kv = context.NewRows(dc_kv_, kv_rank_);
    kv_up_.BackwardInput(context, dkv, dc_kv);
    if (kv_up_.fp8()) tape.Free(dkv_);
    kernels::RmsNormBackwardInput(context.stream, {.dy = dc_kv,
                                                   .x = a.Columns(q_width_, kv_rank_),
                                                   .w = kv_norm_->value,
                                                   .inverse_rms = tape.Get(kv_rms_),
                                                   .dx = da.Columns(q_width_, kv_rank_)});
    down_.BackwardInput(context, da, dx);
    if (down_.fp8()) tape.Free(da_);
  }
  bool KeepsInput() const override { return down_.keeps_input(); }
  bool KeepsOutputGradient() const override { return out_.fp8(); }

  void BackwardWeight(const Context& context, ConstTensorView x, ConstTensorView dy) override {
    Tape& tape = context.tape;
    ConstTensorView a = tape.Get(a_);
    o_cache_.Restore(context, o_, heads_ * v_);
    out_.BackwardWeight(context, dy, tape.Get(o_));
    o_cache_.Free(context);
    if (has_q_lora_) {
      q_up().BackwardWeight(context, tape.Find(dq_), tape.Find(c_q_));
      if (q_norm_->trained) {
        kernels::RmsNormBackwardWeight(context.stream, {.dy = tape.Get(dc_q_),
                                                        .x = a.Columns(0, q_width_),
                                                        .inverse_rms = tape.Get(q_rms_),
                                                        .dw = q_norm_->gradient});
      }
    }
    kv_up_.BackwardWeight(context, tape.Find(dkv_), tape.Find(c_kv_));
    if (kv_norm_->trained) {
      kernels::RmsNormBackwardWeight(context.stream, {.dy = tape.Get(dc_kv_),
                                                      .x = a.Columns(q_width_, kv_rank_),
                                                      .inverse_rms = tape.Get(kv_rms_),
                                                      .dw = kv_norm_->gradient});
    }
    down_.BackwardWeight(context, tape.Find(da_), x);
    for (SlotId slot : {a_, q_rms_, c_q_, kv_rms_, c_kv_, o_, da_, dq_, dkv_, dc_q_, dc_kv_})
      tape.Free(slot);
  }

  void ForEachLinear(const LinearVisitor& visit) override {
    visit(down_);
    if (has_q_lora_) visit(q_up());
    visit(kv_up_);
    visit(out_);
  }

 private:
  Linear& q_up() { return *q_up_linear_; }
  TensorView Heads(const TensorView& rows, int64_t width) const {
    return rows.Reshape({rows.extent(0), heads_, width});
  }
  // Heads of [nope | rope] from the first rotated element on.
  TensorView FromRotary(const TensorView& heads) const {
    return heads.Columns(nope_, heads_ * head_ - nope_);
  }
  TensorView Values(const TensorView& kv) const {
    return kv.Columns(heads_ * nope_, heads_ * v_).Reshape({kv.extent(0), heads_, v_});
  }
  int64_t ScratchBytes(const Context& context) const {
    return static_cast<int64_t>(kernels::AttentionScratchBytes(
        context.stream, context.batch.num_tokens(), heads_, heads_, head_, v_));
  }

  // c_q and c_kv: the normalised latents.
  void NormDown(const Context& context, ConstTensorView a) {
    const int64_t tokens = context.batch.num_tokens();
    if (has_q_lora_) {
      kernels::RmsNorm(context.stream,
                       {.x = a.Columns(0, q_width_),
                        .w = q_norm_->value,
                        .y = context.NewRows(c_q_, q_width_),
                        .inverse_rms = context.tape.New(q_rms_, DType::kF32, {tokens}),
                        .eps = kInnerNormEps});
    }
    kernels::RmsNorm(context.stream,
                     {.x = a.Columns(q_width_, kv_rank_),
                      .w = kv_norm_->value,
                      .y = context.NewRows(c_kv_, kv_rank_),
                      .inverse_rms = context.tape.New(kv_rms_, DType::kF32, {tokens}),
                      .eps = kInnerNormEps});
  }

  // q, k and v of all heads from the latents.
  void Expand(const Context& context) {
    Tape& tape = context.tape;
    ConstTensorView a = tape.Get(a_);
    TensorView q = context.NewRows(q_, heads_ * head_);
    if (has_q_lora_) {
      q_up().Forward(context, tape.Find(c_q_), q);
    } else {
      kernels::CopyHeads(context.stream, {.x = a.Columns(0, q_width_), .y = q});
    }
    Rotate(context, FromRotary(q), heads_, false);
    TensorView kv = context.NewRows(kv_, heads_ * (nope_ + v_));
    kv_up_.Forward(context, tape.Find(c_kv_), kv);
    TensorView k = context.NewRows(k_, heads_ * head_);
    kernels::CopyHeads(context.stream, {.x = kv.Columns(0, nope_),
                                        .y = k.Columns(0, nope_),
                                        .num_heads = heads_,
                                        .head_stride = nope_,
                                        .y_head_stride = head_});
    Temporary k_rope(context.pool, context.dtype, {context.batch.num_tokens(), rotary_});
    kernels::CopyHeads(context.stream,
                       {.x = a.Columns(q_width_ + kv_rank_, rotary_), .y = k_rope.view()});
    Rotate(context, k_rope.view(), 1, false);
    kernels::BroadcastHeads(
        context.stream,
        {.x = k_rope.view(), .y = FromRotary(k), .num_heads = heads_, .head_stride = head_});
  }
  void FreeExpanded(const Context& context) {
    for (SlotId slot : {q_, k_, kv_}) context.tape.Free(slot);
  }

  void Rotate(const Context& context, TensorView x, int64_t heads, bool inverse) const {
    kernels::Rope(context.stream, {.x = x,
                                   .y = x,
                                   .cos = rope_.cos(),
                                   .sin = rope_.sin(),
                                   .positions = context.batch.positions,
                                   .num_heads = heads,
                                   .head_stride = head_,
                                   .y_head_stride = head_,
                                   .layout = rope_layout_,
                                   .inverse = inverse});
  }

  void AttendBackward(const Context& context, TensorView d_o, TensorView dq, TensorView dk,
                      TensorView dkv) const {
    Tape& tape = context.tape;
    Temporary scratch(context.pool, DType::kU8, {ScratchBytes(context)});
    kernels::AttentionBackward(context.stream, {.dout = Heads(d_o, v_),
                                                .q = Heads(tape.Get(q_), head_),
                                                .k = Heads(tape.Get(k_), head_),
                                                .v = Values(tape.Get(kv_)),
                                                .starts = context.batch.starts,
                                                .o = Heads(tape.Get(o_), v_),
                                                .log_sum_exp = tape.Get(lse_),
                                                .dq = Heads(dq, head_),
                                                .dk = Heads(dk, head_),
                                                .dv = Values(dkv),
                                                .scale = scale_,
                                                .scratch = scratch.view()});
    Rotate(context, FromRotary(dq), heads_, true);
  }

  // dk of all heads to the gradients of k_nope (a part of dkv) and of the shared rotated key.
  void CollectKeyGradient(const Context& context, TensorView dk, TensorView dkv,
                          TensorView dk_rope) const {
    kernels::CopyHeads(context.stream, {.x = dk.Columns(0, nope_),
                                        .y = dkv.Columns(0, nope_),
                                        .num_heads = heads_,
                                        .head_stride = head_,
                                        .y_head_stride = nope_});
    kernels::SumHeads(
        context.stream,
        {.x = FromRotary(dk), .y = dk_rope, .num_heads = heads_, .head_stride = head_});
    Rotate(context, dk_rope, 1, true);
  }

  const int64_t heads_, nope_, rotary_, v_, head_, kv_rank_;
  const bool has_q_lora_;
  const int64_t q_width_;
  const float scale_;
  const bool recompute_up_;
  const kernels::RopeLayout rope_layout_;
  const RopeTable& rope_;
  Linear down_;
  Parameter* q_norm_;
  Parameter* q_up_;
  Parameter* kv_norm_;
  Linear kv_up_, out_;
  E5m6Cache o_cache_;
  std::unique_ptr<Linear> q_up_linear_;
  SlotId a_, q_rms_, c_q_, kv_rms_, c_kv_, q_, k_, kv_, o_, lse_, da_, dq_, dkv_, dc_q_, dc_kv_;
};

}  // namespace

std::unique_ptr<AttentionLayer> MakeMla(const ModelConfig& config, const std::string& prefix,
                                        const RopeTable& rope, const Recompute& recompute,
                                        ParameterStore& store, TapeLayout& layout) {
  return std::make_unique<Mla>(config, prefix, rope, recompute, store, layout);
}

std::unique_ptr<AttentionLayer> MakeAttention(const ModelConfig& config, const std::string& prefix,
                                              const RopeTable& rope, const Recompute& recompute,
                                              ParameterStore& store, TapeLayout& layout) {
  return config.kv_lora_rank() > 0 ? MakeMla(config, prefix, rope, recompute, store, layout)
                                   : MakeGqa(config, prefix, rope, store, layout);
}

}  // namespace sluice::trainer
