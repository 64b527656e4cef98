#include "trainer/model/transformer_stage.h"

#include <utility>

#include "kernels/core/status_macros.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/rms_norm.h"

namespace sluice::trainer {
namespace {

constexpr char kEmbeddingName[] = "model.embed_tokens.weight";

// The tensor of the first stage if it lives on this rank, else a copy of it that the trainer keeps
// equal.
Parameter& FindOrCopyEmbedding(const BuildContext& build) {
  if (Parameter* found = build.store.Find(kEmbeddingName)) return *found;
  Parameter& copy = build.store.AddTensor(kEmbeddingName,
                                          {build.config.vocab_size(), build.config.hidden_size()});
  copy.tied_copy = true;
  return copy;
}

}  // namespace

void SequenceSums::Reset(int64_t sequences, int gates, int experts) {
  num_gates = gates;
  num_experts = experts;
  expert_share.assign(sequences * gates * experts, 0.0);
  loss.assign(sequences, 0.0);
  mtp_loss.assign(sequences, 0.0);
  balance.assign(sequences * gates, 0.0);
  z.assign(sequences * gates, 0.0);
}

TransformerStage::TransformerStage(const BuildContext& build, const StageSpec& spec, DType dtype,
                                   kernels::DeviceContext& device, ActivationPool& pool,
                                   TapeLayout& layout)
    : config_(build.config),
      spec_(spec),
      dtype_(dtype),
      hidden_(build.config.hidden_size()),
      device_(device),
      pool_(pool),
      layout_(layout),
      stream_(device.stream(kernels::StreamRole::kCompute)) {
  const int first_moe = config_.n_routed_experts() > 0 ? config_.first_k_dense_replace()
                                                       : config_.num_hidden_layers();
  if (spec.has_embedding) {
    embedding_ = &build.store.AddTensor(kEmbeddingName, {config_.vocab_size(), hidden_});
  }
  for (int layer = spec.first_layer; layer < spec.first_layer + spec.num_layers; ++layer) {
    blocks_.push_back(std::make_unique<Block>(build, layer, IsMoe(config_, layer)));
    if (MoeLayer* moe = blocks_.back()->moe()) gates_.push_back({moe, layer - first_moe});
  }
  if (spec.has_head) {
    final_norm_ = &build.store.AddNorm("model.norm.weight", hidden_);
    Parameter& head =
        config_.tie_word_embeddings()
            ? FindOrCopyEmbedding(build)
            : build.store.AddTensor("lm_head.weight", {config_.vocab_size(), hidden_});
    head_ = std::make_unique<LmHead>(head);
    for (int depth = 0; depth < config_.num_nextn_predict_layers(); ++depth) {
      embedding_ = &FindOrCopyEmbedding(build);
      mtp_.push_back(std::make_unique<MtpModule>(build, depth, *embedding_, *head_));
      if (MoeLayer* moe = mtp_.back()->moe())
        gates_.push_back({moe, config_.num_hidden_layers() - first_moe + depth});
      d_mtp_.push_back(layout.NewSlot());
    }
  }
  const auto collect = [this](Linear& linear) { linears_.push_back(&linear); };
  for (auto& block : blocks_) block->ForEachLinear(collect);
  if (head_ != nullptr) collect(head_->linear());
  for (auto& mtp : mtp_) mtp->ForEachLinear(collect);
  for (int i = 0; i <= spec.num_layers; ++i) {
    x_.push_back(layout.NewSlot());
    d_.push_back(layout.NewSlot());
  }
  for (SlotId* slot : {&normed_, &final_rms_, &d_normed_, &loss_}) *slot = layout.NewSlot();
}

absl::Status TransformerStage::Allocate() {
  for (Linear* linear : linears_) RETURN_IF_ERROR(linear->Allocate(device_, dtype_));
  for (const Gate& gate : gates_) RETURN_IF_ERROR(gate.layer->Allocate(device_));
  return absl::OkStatus();
}

void TransformerStage::Repack() {
  for (Linear* linear : linears_) linear->Repack(stream_);
}

void TransformerStage::BeginStep(const std::vector<MicrobatchInput>* inputs,
                                 const LossScales& scales, bool training, SequenceSums* sums) {
  inputs_ = inputs;
  scales_ = scales;
  training_ = training;
  sums_ = sums;
  if (active_.size() < inputs->size()) active_.resize(inputs->size());
  weights_done_.assign(active_.size(), false);
  // A step that ended in an error leaves tapes behind.
  for (int microbatch = 0; microbatch < static_cast<int>(active_.size()); ++microbatch)
    RecycleTape(microbatch);
}

Tape& TransformerStage::TapeOf(int microbatch) {
  std::unique_ptr<Tape>& tape = active_[microbatch];
  if (tape == nullptr && !spare_.empty()) {
    tape = std::move(spare_.back());
    spare_.pop_back();
  }
  if (tape == nullptr) tape = std::make_unique<Tape>(layout_, pool_);
  return *tape;
}

void TransformerStage::RecycleTape(int microbatch) {
  if (active_[microbatch] == nullptr) return;
  active_[microbatch]->Clear();
  spare_.push_back(std::move(active_[microbatch]));
}

Context TransformerStage::MakeContext(int microbatch) {
  return Context{stream_,   pool_, TapeOf(microbatch), (*inputs_)[microbatch], scales_,
                 training_, dtype_};
}

absl::Status TransformerStage::Forward(int microbatch, int /*phase*/) {
  const Context context = MakeContext(microbatch);
  Tape& tape = context.tape;
  if (spec_.has_embedding) {
    kernels::Embedding(stream_, {.tokens = context.batch.tokens,
                                 .table = embedding_->value,
                                 .y = context.NewRows(x_[0], hidden_)});
  }
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const int layer = spec_.first_layer + static_cast<int>(i);
    RETURN_IF_ERROR(
        blocks_[i]->Forward(context, tape.Get(x_[i]), context.NewRows(x_[i + 1], hidden_)));
    Visit("activation", layer, context, tape.Get(x_[i + 1]));
    if (MoeLayer* moe = blocks_[i]->moe()) Visit("routes", layer, context, moe->expert_of(context));
  }
  if (spec_.has_head) RETURN_IF_ERROR(ForwardHead(context, tape.Get(x_.back())));
  RETURN_IF_ERROR(ReadGateLosses(context));
  if (spec_.has_head && !training_) RecycleTape(microbatch);
  return absl::OkStatus();
}

void TransformerStage::Visit(const char* what, int layer, const Context& context,
                             ConstTensorView rows) const {
  if (row_visitor_) row_visitor_(what, layer, context.batch, rows);
}

ConstTensorView TransformerStage::MtpInput(const Context& context, ConstTensorView x,
                                           int depth) const {
  const bool before_norm = config_.mtp_hidden_before_norm();
  if (depth > 0) return mtp_[depth - 1]->Hidden(context, before_norm);
  return before_norm ? x : context.tape.Get(normed_);
}

absl::Status TransformerStage::ForwardHead(const Context& context, ConstTensorView x) {
  Tape& tape = context.tape;
  const int64_t tokens = context.batch.num_tokens();
  TensorView normed = context.NewRows(normed_, hidden_);
  TensorView loss = tape.New(loss_, DType::kF32, {tokens});
  kernels::RmsNorm(stream_, {.x = x,
                             .w = final_norm_->value,
                             .y = normed,
                             .inverse_rms = tape.New(final_rms_, DType::kF32, {tokens}),
                             .eps = static_cast<float>(config_.rms_norm_eps())});
  head_->Loss(context, {.h = normed,
                        .targets = context.batch.targets,
                        .loss = loss,
                        .dh = training_ ? context.NewRows(d_normed_, hidden_) : TensorView()});
  RETURN_IF_ERROR(AddSums(context, loss, sums_->loss));
  if (head_visitor_) head_visitor_(context, {normed, loss, head_.get()});
  for (int depth = 0; depth < static_cast<int>(mtp_.size()); ++depth) {
    RETURN_IF_ERROR(mtp_[depth]->Forward(context, MtpInput(context, x, depth), loss));
    if (MoeLayer* moe = mtp_[depth]->moe()) {
      Visit("routes", config_.num_hidden_layers() + depth, context, moe->expert_of(context));
    }
    RETURN_IF_ERROR(AddSums(context, loss, sums_->mtp_loss));
  }
  tape.Free(loss_);
  return absl::OkStatus();
}

absl::Status TransformerStage::BackwardInput(int microbatch, int /*phase*/) {
  const Context context = MakeContext(microbatch);
  Tape& tape = context.tape;
  if (spec_.has_head) {
    RETURN_IF_ERROR(
        BackwardHead(context, tape.Get(x_.back()), context.NewRows(d_.back(), hidden_)));
  }
  for (size_t i = blocks_.size(); i-- > 0;) {
    RETURN_IF_ERROR(blocks_[i]->BackwardInput(context, tape.Get(x_[i]), tape.Get(d_[i + 1]),
                                              context.NewRows(d_[i], hidden_)));
    Visit("gradient", spec_.first_layer + static_cast<int>(i), context, tape.Get(d_[i]));
  }
  return absl::OkStatus();
}

absl::Status TransformerStage::BackwardHead(const Context& context, ConstTensorView x,
                                            TensorView dx) {
  Tape& tape = context.tape;
  const bool before_norm = config_.mtp_hidden_before_norm();
  ConstTensorView d_hidden;  // gradient of what the first MTP module read
  for (int depth = static_cast<int>(mtp_.size()) - 1; depth >= 0; --depth) {
    TensorView dh = context.NewRows(d_mtp_[depth], hidden_);
    RETURN_IF_ERROR(mtp_[depth]->BackwardInput(context, MtpInput(context, x, depth), d_hidden, dh));
    d_hidden = dh;
  }
  TensorView d_normed = tape.Get(d_normed_);
  if (!d_hidden.is_null() && !before_norm) {
    kernels::Add(stream_, {.a = d_normed, .b = d_hidden, .y = d_normed});
  }
  kernels::RmsNormBackwardInput(stream_, {.dy = d_normed,
                                          .x = x,
                                          .w = final_norm_->value,
                                          .inverse_rms = tape.Get(final_rms_),
                                          .dx = dx,
                                          .dx_add = before_norm ? d_hidden : ConstTensorView()});
  return absl::OkStatus();
}

absl::Status TransformerStage::BackwardWeight(int microbatch, int /*phase*/) {
  const Context context = MakeContext(microbatch);
  Tape& tape = context.tape;
  if (spec_.has_head) BackwardHeadWeight(context, tape.Get(x_.back()));
  for (size_t i = blocks_.size(); i-- > 0;) {
    blocks_[i]->BackwardWeight(context, tape.Get(x_[i]), tape.Get(d_[i + 1]));
  }
  if (spec_.has_embedding) {
    kernels::EmbeddingBackward(
        stream_,
        {.dy = tape.Get(d_[0]), .tokens = context.batch.tokens, .dtable = embedding_->gradient});
  }
  // The gradient of the input may still have to be sent.
  weights_done_[microbatch] = true;
  if (spec_.has_embedding || !tape.Has(d_[0])) RecycleTape(microbatch);
  return absl::OkStatus();
}

void TransformerStage::BackwardHeadWeight(const Context& context, ConstTensorView x) {
  Tape& tape = context.tape;
  kernels::RmsNormBackwardWeight(stream_, {.dy = tape.Get(d_normed_),
                                           .x = x,
                                           .inverse_rms = tape.Get(final_rms_),
                                           .dw = final_norm_->gradient});
  // Deepest first: a module reads what the one before it keeps until its own turn.
  for (int depth = static_cast<int>(mtp_.size()) - 1; depth >= 0; --depth) {
    mtp_[depth]->BackwardWeight(context, MtpInput(context, x, depth));
  }
}

absl::StatusOr<TensorView> TransformerStage::InputActivation(int microbatch) {
  const Context context = MakeContext(microbatch);
  return context.tape.Has(x_[0]) ? context.tape.Get(x_[0]) : context.NewRows(x_[0], hidden_);
}

absl::StatusOr<TensorView> TransformerStage::OutputGradient(int microbatch) {
  const Context context = MakeContext(microbatch);
  return context.tape.Has(d_.back()) ? context.tape.Get(d_.back())
                                     : context.NewRows(d_.back(), hidden_);
}

ConstTensorView TransformerStage::OutputActivation(int microbatch) {
  return TapeOf(microbatch).Get(x_.back());
}

ConstTensorView TransformerStage::InputGradient(int microbatch) {
  return TapeOf(microbatch).Get(d_[0]);
}

void TransformerStage::ReleaseOutputActivation(int microbatch) {
  TapeOf(microbatch).Free(x_.back());
  if (!training_) RecycleTape(microbatch);
}

void TransformerStage::ReleaseInputGradient(int microbatch) {
  TapeOf(microbatch).Free(d_[0]);
  if (weights_done_[microbatch]) RecycleTape(microbatch);
}

absl::Status TransformerStage::ToHost(ConstTensorView view, void* host) {
  device_.Copy(view, TensorView(host, view.dtype(), view.shape()), stream_);
  return stream_.Synchronize();
}

absl::Status TransformerStage::AddSums(const Context& context, ConstTensorView token_losses,
                                       std::vector<double>& sums) {
  const MicrobatchInput& batch = context.batch;
  std::vector<float> losses(batch.num_tokens());
  RETURN_IF_ERROR(ToHost(token_losses, losses.data()));
  for (int64_t s = 0; s < batch.num_sequences; ++s) {
    double sum = 0;
    for (int64_t t = 0; t < batch.sequence_length; ++t)
      sum += losses[s * batch.sequence_length + t];
    sums[batch.first_sequence + s] += sum;
  }
  return absl::OkStatus();
}

absl::Status TransformerStage::ReadGateLosses(const Context& context) {
  const MicrobatchInput& batch = context.batch;
  std::vector<double> values(batch.num_sequences);
  for (const Gate& gate : gates_) {
    RETURN_IF_ERROR(ToHost(gate.layer->balance(context), values.data()));
    for (int64_t s = 0; s < batch.num_sequences; ++s) {
      sums_->balance[(batch.first_sequence + s) * sums_->num_gates + gate.index] = values[s];
    }
    RETURN_IF_ERROR(ToHost(gate.layer->z(context), values.data()));
    for (int64_t s = 0; s < batch.num_sequences; ++s) {
      sums_->z[(batch.first_sequence + s) * sums_->num_gates + gate.index] = values[s];
    }
    if (!sums_->expert_share.empty()) RETURN_IF_ERROR(ReadExpertShares(context, gate));
  }
  return absl::OkStatus();
}

absl::Status TransformerStage::ReadExpertShares(const Context& context, const Gate& gate) {
  const MicrobatchInput& batch = context.batch;
  const int64_t experts = sums_->num_experts;
  std::vector<float> scores(batch.num_tokens() * experts);
  RETURN_IF_ERROR(ToHost(gate.layer->scores(context), scores.data()));
  for (int64_t t = 0; t < batch.num_tokens(); ++t) {
    const int64_t sequence = batch.first_sequence + t / batch.sequence_length;
    double* share =
        sums_->expert_share.data() + (sequence * sums_->num_gates + gate.index) * experts;
    const float* row = scores.data() + t * experts;
    double total = 0;
    for (int64_t e = 0; e < experts; ++e) total += row[e];
    for (int64_t e = 0; e < experts; ++e) share[e] += row[e] / total;
  }
  return absl::OkStatus();
}

}  // namespace sluice::trainer
