#include "trainer/model/mtp.h"

#include "kernels/core/status_macros.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/rms_norm.h"

namespace sluice::trainer {
namespace {

std::string Prefix(const BuildContext& build, int index) {
  return "model.layers." + std::to_string(build.config.num_hidden_layers() + index) + ".";
}

void NormWeight(const Context& context, const Parameter& norm, ConstTensorView dy,
                ConstTensorView x, ConstTensorView inverse_rms) {
  if (!norm.trained) return;
  kernels::RmsNormBackwardWeight(
      context.stream, {.dy = dy, .x = x, .inverse_rms = inverse_rms, .dw = norm.gradient});
}

}  // namespace

MtpModule::MtpModule(const BuildContext& build, int index, Parameter& embedding, LmHead& head)
    : index_(index),
      hidden_(build.config.hidden_size()),
      eps_(static_cast<float>(build.config.rms_norm_eps())),
      before_norm_(build.config.mtp_hidden_before_norm()),
      embedding_(embedding),
      head_(head),
      embedding_norm_(&build.store.AddNorm(Prefix(build, index) + "enorm.weight", hidden_)),
      hidden_norm_(&build.store.AddNorm(Prefix(build, index) + "hnorm.weight", hidden_)),
      projection_(
          build.store.AddTensor(Prefix(build, index) + "eh_proj.weight", {hidden_, 2 * hidden_})),
      block_(build, build.config.num_hidden_layers() + index, build.config.n_routed_experts() > 0),
      final_norm_(&build.store.AddNorm(Prefix(build, index) + "shared_head.norm.weight", hidden_)) {
  for (SlotId* slot :
       {&embedded_, &embedded_rms_, &hidden_rms_, &joined_, &projected_, &out_, &final_rms_,
        &normed_, &d_normed_, &d_out_, &d_projected_, &d_joined_, &d_embedded_}) {
    *slot = build.layout.NewSlot();
  }
}

absl::Status MtpModule::Forward(const Context& context, int phase, ConstTensorView h,
                                TensorView loss) {
  if (phase == block_.NumPhases()) {
    ForwardHead(context, loss);
    return absl::OkStatus();
  }
  if (phase == 0) JoinInputs(context, h);
  return block_.Forward(context, phase, context.tape.Get(projected_), context.tape.Get(out_));
}

void MtpModule::JoinInputs(const Context& context, ConstTensorView h) {
  Tape& tape = context.tape;
  const int64_t tokens = context.batch.num_tokens();
  TensorView embedded = context.NewRows(embedded_, hidden_),
             joined = context.NewRows(joined_, 2 * hidden_);
  kernels::Embedding(
      context.stream,
      {.tokens = context.batch.mtp_tokens[index_], .table = embedding_.value, .y = embedded});
  kernels::RmsNorm(context.stream, {.x = embedded,
                                    .w = embedding_norm_->value,
                                    .y = joined.Columns(0, hidden_),
                                    .inverse_rms = tape.New(embedded_rms_, DType::kF32, {tokens}),
                                    .eps = eps_});
  kernels::RmsNorm(context.stream, {.x = h,
                                    .w = hidden_norm_->value,
                                    .y = joined.Columns(hidden_, hidden_),
                                    .inverse_rms = tape.New(hidden_rms_, DType::kF32, {tokens}),
                                    .eps = eps_});
  projection_.Forward(context, joined, context.NewRows(projected_, hidden_));
  context.NewRows(out_, hidden_);
}

void MtpModule::ForwardHead(const Context& context, TensorView loss) {
  Tape& tape = context.tape;
  TensorView normed = context.NewRows(normed_, hidden_);
  kernels::RmsNorm(context.stream,
                   {.x = tape.Get(out_),
                    .w = final_norm_->value,
                    .y = normed,
                    .inverse_rms = tape.New(final_rms_, DType::kF32, {context.batch.num_tokens()}),
                    .eps = eps_});
  head_.Loss(context,
             {.h = normed,
              .targets = context.batch.mtp_targets[index_],
              .scale = context.scales.mtp,
              .loss = loss,
              .dh = context.training ? context.NewRows(d_normed_, hidden_) : TensorView()});
}

ConstTensorView MtpModule::Hidden(const Context& context, bool before_norm) const {
  return context.tape.Get(before_norm ? out_ : normed_);
}

absl::Status MtpModule::BackwardInput(const Context& context, int phase, ConstTensorView h,
                                      ConstTensorView d_next, TensorView dh) {
  Tape& tape = context.tape;
  if (phase == block_.NumPhases()) {
    BackwardHead(context, d_next);
    return absl::OkStatus();
  }
  const TensorView d_projected = phase == 0 ? context.NewRows(d_projected_, hidden_) : TensorView();
  RETURN_IF_ERROR(
      block_.BackwardInput(context, phase, tape.Get(projected_), tape.Get(d_out_), d_projected));
  if (phase == 0) BackwardJoin(context, h, dh);
  return absl::OkStatus();
}

void MtpModule::BackwardHead(const Context& context, ConstTensorView d_next) {
  Tape& tape = context.tape;
  TensorView d_normed = tape.Get(d_normed_), d_out = context.NewRows(d_out_, hidden_);
  const bool next_reads_out = !d_next.is_null() && before_norm_;
  if (!d_next.is_null() && !before_norm_) {
    kernels::Add(context.stream, {.a = d_normed, .b = d_next, .y = d_normed});
  }
  kernels::RmsNormBackwardInput(context.stream,
                                {.dy = d_normed,
                                 .x = tape.Get(out_),
                                 .w = final_norm_->value,
                                 .inverse_rms = tape.Get(final_rms_),
                                 .dx = d_out,
                                 .dx_add = next_reads_out ? d_next : ConstTensorView()});
}

void MtpModule::BackwardJoin(const Context& context, ConstTensorView h, TensorView dh) {
  Tape& tape = context.tape;
  TensorView d_joined = context.NewRows(d_joined_, 2 * hidden_);
  projection_.BackwardInput(context, tape.Get(d_projected_), d_joined);
  kernels::RmsNormBackwardInput(context.stream, {.dy = d_joined.Columns(0, hidden_),
                                                 .x = tape.Get(embedded_),
                                                 .w = embedding_norm_->value,
                                                 .inverse_rms = tape.Get(embedded_rms_),
                                                 .dx = context.NewRows(d_embedded_, hidden_)});
  kernels::RmsNormBackwardInput(context.stream, {.dy = d_joined.Columns(hidden_, hidden_),
                                                 .x = h,
                                                 .w = hidden_norm_->value,
                                                 .inverse_rms = tape.Get(hidden_rms_),
                                                 .dx = dh});
}

void MtpModule::BackwardWeight(const Context& context, int phase, ConstTensorView h) {
  Tape& tape = context.tape;
  if (phase == block_.NumPhases()) {
    NormWeight(context, *final_norm_, tape.Get(d_normed_), tape.Get(out_), tape.Get(final_rms_));
    return;
  }
  block_.BackwardWeight(context, phase, tape.Get(projected_), tape.Get(d_out_));
  if (phase == 0) BackwardJoinWeight(context, h);
}

void MtpModule::BackwardJoinWeight(const Context& context, ConstTensorView h) {
  Tape& tape = context.tape;
  projection_.BackwardWeight(context, tape.Get(d_projected_), tape.Get(joined_));
  ConstTensorView d_joined = tape.Get(d_joined_);
  NormWeight(context, *embedding_norm_, d_joined.Columns(0, hidden_), tape.Get(embedded_),
             tape.Get(embedded_rms_));
  NormWeight(context, *hidden_norm_, d_joined.Columns(hidden_, hidden_), h, tape.Get(hidden_rms_));
  if (embedding_.trained) {
    kernels::EmbeddingBackward(context.stream, {.dy = tape.Get(d_embedded_),
                                                .tokens = context.batch.mtp_tokens[index_],
                                                .dtable = embedding_.gradient});
  }
  for (SlotId slot : {embedded_, embedded_rms_, hidden_rms_, joined_, projected_, out_, final_rms_,
                      normed_, d_normed_, d_out_, d_projected_, d_joined_, d_embedded_}) {
    tape.Free(slot);
  }
}

void MtpModule::ForEachLinear(const LinearVisitor& visit) {
  visit(projection_);
  block_.ForEachLinear(visit);
}

}  // namespace sluice::trainer
