#include "trainer/model/transformer_stage.h"

#include <algorithm>
#include <utility>

#include "kernels/core/status_macros.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/rms_norm.h"
#include "trainer/model/lora.h"

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
      fp8_(build.fp8),
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
  if (spec.has_head) BuildHead(build, first_moe);
  const auto collect = [this](Linear& linear) { linears_.push_back(&linear); };
  for (auto& block : blocks_) block->ForEachLinear(collect);
  if (head_ != nullptr) collect(head_->linear());
  for (auto& mtp : mtp_) mtp->ForEachLinear(collect);
  for (int i = 0; i <= spec.num_layers; ++i) {
    x_.push_back(layout.NewSlot());
    d_.push_back(layout.NewSlot());
  }
  for (SlotId* slot : {&normed_, &final_rms_, &d_normed_, &loss_}) *slot = layout.NewSlot();
  ListPhases();
}

void TransformerStage::BuildHead(const BuildContext& build, int first_moe) {
  final_norm_ = &build.store.AddNorm("model.norm.weight", hidden_);
  Parameter& head = config_.tie_word_embeddings()
                        ? FindOrCopyEmbedding(build)
                        : build.store.AddTensor("lm_head.weight", {config_.vocab_size(), hidden_});
  head_ = std::make_unique<LmHead>(head);
  for (int depth = 0; depth < config_.num_nextn_predict_layers(); ++depth) {
    embedding_ = &FindOrCopyEmbedding(build);
    mtp_.push_back(std::make_unique<MtpModule>(build, depth, *embedding_, *head_));
    if (MoeLayer* moe = mtp_.back()->moe()) {
      gates_.push_back({moe, config_.num_hidden_layers() - first_moe + depth});
    }
    d_mtp_.push_back(layout_.NewSlot());
  }
}

void TransformerStage::ListPhases() {
  if (spec_.has_embedding) phases_.push_back({.part = Part::kEmbedding});
  for (int i = 0; i < static_cast<int>(blocks_.size()); ++i) {
    for (int phase = 0; phase < blocks_[i]->NumPhases(); ++phase) {
      phases_.push_back({Part::kBlock, i, phase, blocks_[i]->RoleOf(phase)});
    }
  }
  if (spec_.has_head) phases_.push_back({.part = Part::kHead});
  for (int depth = 0; depth < static_cast<int>(mtp_.size()); ++depth) {
    for (int phase = 0; phase < mtp_[depth]->NumPhases(); ++phase) {
      phases_.push_back({Part::kMtp, depth, phase, mtp_[depth]->RoleOf(phase)});
    }
  }
}

absl::Status TransformerStage::AddAdapters(const LoraConfig& config, ParameterStore& store) {
  ASSIGN_OR_RETURN(const NamePattern targets,
                   NamePattern::Create("finetune.lora.targets", config.targets()));
  for (Linear* linear : linears_) {
    ASSIGN_OR_RETURN(auto adapter,
                     LowRankAdapter::Create(config, targets, linear->weight(), store, layout_));
    linear->set_adapter(std::move(adapter));
  }
  for (const Gate& gate : gates_) {
    gate.layer->set_adapters_drop(config.dropout() > 0);
  }
  return absl::OkStatus();
}

void TransformerStage::KeepQuantized(ParameterStore& store) {
  for (Linear* linear : linears_) {
    if (!linear->may_be_fp8() || !linear->weight().is_frozen()) continue;
    trainer::KeepQuantized(linear->weight(), store);
  }
}

absl::Status TransformerStage::Allocate() {
  for (Linear* linear : linears_) RETURN_IF_ERROR(linear->Allocate(device_, dtype_, fp8_));
  for (const Gate& gate : gates_) RETURN_IF_ERROR(gate.layer->Allocate(device_));
  return absl::OkStatus();
}

void TransformerStage::Repack() {
  for (Linear* linear : linears_) linear->Repack(stream_);
}

void TransformerStage::RepackTrained() {
  for (Linear* linear : linears_) linear->RepackTrained(stream_);
}

void TransformerStage::BeginStep(const std::vector<MicrobatchInput>* inputs,
                                 const LossScales& scales, bool training, SequenceSums* sums) {
  inputs_ = inputs;
  scales_ = scales;
  training_ = training;
  sums_ = sums;
  num_pending_ = 0;
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

// Of the modules nothing is left.
void TransformerStage::FinishTape(int microbatch) {
  Tape& tape = *active_[microbatch];
  for (const auto* slots : {&x_, &d_, &d_mtp_}) {
    for (SlotId slot : *slots) tape.Free(slot);
  }
  for (SlotId slot : {normed_, final_rms_, d_normed_}) tape.Free(slot);
  tape.CheckIsEmpty();
  RecycleTape(microbatch);
}

void TransformerStage::RecycleTape(int microbatch) {
  if (active_[microbatch] == nullptr) return;
  active_[microbatch]->Clear();
  spare_.push_back(std::move(active_[microbatch]));
}

Context TransformerStage::MakeContext(int microbatch, kernels::StreamRole role) {
  pool_.Enter(role);
  return Context{device_.stream(role),
                 pool_,
                 TapeOf(microbatch),
                 (*inputs_)[microbatch],
                 scales_,
                 training_,
                 dtype_,
                 {},
                 training_ && microbatch == 0 ? health_ : nullptr};
}

absl::Status TransformerStage::Forward(int microbatch, int phase) {
  const Phase& part = phases_[phase];
  const Context context = MakeContext(microbatch, part.role);
  switch (part.part) {
    case Part::kEmbedding:
      kernels::Embedding(stream_, {.tokens = context.batch.tokens,
                                   .table = embedding_->value,
                                   .y = context.NewRows(x_[0], hidden_)});
      RETURN_IF_ERROR(Visit("embedding", 0, context, context.tape.Get(x_[0])));
      break;
    case Part::kBlock:
      RETURN_IF_ERROR(ForwardBlock(context, part.index, part.phase));
      break;
    case Part::kHead:
      RETURN_IF_ERROR(ForwardHead(context));
      break;
    case Part::kMtp:
      RETURN_IF_ERROR(ForwardMtp(context, part.index, part.phase));
      break;
  }
  if (spec_.has_head && phase + 1 == NumPhases()) {
    context.tape.Free(loss_);
    if (!training_) RecycleTape(microbatch);
  }
  return absl::OkStatus();
}

absl::Status TransformerStage::ForwardBlock(const Context& context, int index, int phase) {
  Tape& tape = context.tape;
  Block& block = *blocks_[index];
  const int layer = spec_.first_layer + index;
  if (phase == 0) context.NewRows(x_[index + 1], hidden_);
  RETURN_IF_ERROR(block.Forward(context, phase, tape.Get(x_[index]), tape.Get(x_[index + 1])));
  if (phase == 0) RETURN_IF_ERROR(VisitAttention(layer, context, block));
  if (phase + 1 < block.NumPhases()) return absl::OkStatus();
  return Visit("activation", layer, context, tape.Get(x_[index + 1]));
}

absl::Status TransformerStage::Visit(const char* what, int layer, const Context& context,
                                     ConstTensorView rows) const {
  if (!row_visitor_ || rows.is_null()) return absl::OkStatus();
  RETURN_IF_ERROR(context.stream.Synchronize());
  row_visitor_(what, layer, context.batch, rows);
  return absl::OkStatus();
}

absl::Status TransformerStage::VisitAttention(int layer, const Context& context, Block& block) {
  RETURN_IF_ERROR(Visit("middle", layer, context, block.middle(context)));
  if (block.moe() == nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(ReadGateLosses(context, *block.moe()));
  RETURN_IF_ERROR(Visit("routes", layer, context, block.moe()->expert_of(context)));
  return Visit("weights", layer, context, block.moe()->weights(context));
}

ConstTensorView TransformerStage::MtpInput(const Context& context, int depth) const {
  const bool before_norm = config_.mtp_hidden_before_norm();
  if (depth > 0) return mtp_[depth - 1]->Hidden(context, before_norm);
  return context.tape.Get(before_norm ? x_.back() : normed_);
}

absl::Status TransformerStage::ForwardHead(const Context& context) {
  Tape& tape = context.tape;
  const int64_t tokens = context.batch.num_tokens();
  TensorView normed = context.NewRows(normed_, hidden_);
  TensorView loss = tape.New(loss_, DType::kF32, {tokens});
  kernels::RmsNorm(stream_, {.x = tape.Get(x_.back()),
                             .w = final_norm_->value,
                             .y = normed,
                             .inverse_rms = tape.New(final_rms_, DType::kF32, {tokens}),
                             .eps = static_cast<float>(config_.rms_norm_eps())});
  head_->Loss(context, {.h = normed,
                        .targets = context.batch.targets,
                        .loss = loss,
                        .dh = training_ ? context.NewRows(d_normed_, hidden_) : TensorView()});
  AddSums(context, loss, sums_->loss);
  const int last = config_.num_hidden_layers() - 1;
  RETURN_IF_ERROR(Visit("normed", last, context, normed));
  RETURN_IF_ERROR(Visit("loss", last, context, loss));
  if (!head_visitor_) return absl::OkStatus();
  RETURN_IF_ERROR(stream_.Synchronize());
  head_visitor_(context, {normed, loss, head_.get()});
  return absl::OkStatus();
}

absl::Status TransformerStage::ForwardMtp(const Context& context, int depth, int phase) {
  MtpModule& mtp = *mtp_[depth];
  RETURN_IF_ERROR(mtp.Forward(context, phase, MtpInput(context, depth), context.tape.Get(loss_)));
  const int layer = config_.num_hidden_layers() + depth;
  if (phase == 0) RETURN_IF_ERROR(VisitAttention(layer, context, mtp.block()));
  if (phase + 1 < mtp.NumPhases()) return absl::OkStatus();
  const TensorView loss = context.tape.Get(loss_);
  AddSums(context, loss, sums_->mtp_loss);
  RETURN_IF_ERROR(Visit("activation", layer, context, mtp.Hidden(context, /*before_norm=*/true)));
  RETURN_IF_ERROR(Visit("normed", layer, context, mtp.Hidden(context, /*before_norm=*/false)));
  return Visit("loss", layer, context, loss);
}

absl::Status TransformerStage::BackwardInput(int microbatch, int phase) {
  const Phase& part = phases_[phase];
  const Context context = MakeContext(microbatch, part.role);
  switch (part.part) {
    case Part::kEmbedding:
      return absl::OkStatus();
    case Part::kBlock:
      return BackwardBlock(context, part.index, part.phase);
    case Part::kHead:
      BackwardHead(context);
      return Visit("head_gradient", config_.num_hidden_layers() - 1, context,
                   context.tape.Get(d_.back()));
    case Part::kMtp:
      return BackwardMtp(context, part.index, part.phase);
  }
  return absl::OkStatus();
}

absl::Status TransformerStage::BackwardBlock(const Context& context, int index, int phase) {
  Tape& tape = context.tape;
  const TensorView dx = phase == 0 ? context.NewRows(d_[index], hidden_) : TensorView();
  RETURN_IF_ERROR(blocks_[index]->BackwardInput(context, phase, tape.Get(x_[index]),
                                                tape.Get(d_[index + 1]), dx));
  if (phase > 0) return absl::OkStatus();
  const int layer = spec_.first_layer + index;
  RETURN_IF_ERROR(Visit("d_middle", layer, context, blocks_[index]->d_middle(context)));
  return Visit("gradient", layer, context, dx);
}

absl::Status TransformerStage::BackwardMtp(const Context& context, int depth, int phase) {
  const bool is_deepest = depth + 1 == static_cast<int>(mtp_.size());
  const TensorView dh = phase == 0 ? context.NewRows(d_mtp_[depth], hidden_) : TensorView();
  RETURN_IF_ERROR(mtp_[depth]->BackwardInput(
      context, phase, MtpInput(context, depth),
      is_deepest ? ConstTensorView() : ConstTensorView(context.tape.Get(d_mtp_[depth + 1])), dh));
  if (phase > 0) return absl::OkStatus();
  const int layer = config_.num_hidden_layers() + depth;
  RETURN_IF_ERROR(Visit("d_middle", layer, context, mtp_[depth]->block().d_middle(context)));
  return Visit("gradient", layer, context, dh);
}

void TransformerStage::BackwardHead(const Context& context) {
  Tape& tape = context.tape;
  const bool before_norm = config_.mtp_hidden_before_norm();
  ConstTensorView d_hidden;  // gradient of what the first MTP module read
  if (!mtp_.empty()) d_hidden = tape.Get(d_mtp_[0]);
  TensorView d_normed = tape.Get(d_normed_);
  if (!d_hidden.is_null() && !before_norm) {
    kernels::Add(stream_, {.a = d_normed, .b = d_hidden, .y = d_normed});
  }
  kernels::RmsNormBackwardInput(stream_, {.dy = d_normed,
                                          .x = tape.Get(x_.back()),
                                          .w = final_norm_->value,
                                          .inverse_rms = tape.Get(final_rms_),
                                          .dx = context.NewRows(d_.back(), hidden_),
                                          .dx_add = before_norm ? d_hidden : ConstTensorView()});
}

absl::Status TransformerStage::BackwardWeight(int microbatch, int phase) {
  const Context context = MakeContext(microbatch);
  Tape& tape = context.tape;
  const Phase& part = phases_[phase];
  switch (part.part) {
    case Part::kEmbedding:
      if (!embedding_->trained) break;
      kernels::EmbeddingBackward(
          stream_,
          {.dy = tape.Get(d_[0]), .tokens = context.batch.tokens, .dtable = embedding_->gradient});
      break;
    case Part::kBlock:
      blocks_[part.index]->BackwardWeight(context, part.phase, tape.Get(x_[part.index]),
                                          tape.Get(d_[part.index + 1]));
      break;
    case Part::kHead:
      if (!final_norm_->trained) break;
      kernels::RmsNormBackwardWeight(stream_, {.dy = tape.Get(d_normed_),
                                               .x = tape.Get(x_.back()),
                                               .inverse_rms = tape.Get(final_rms_),
                                               .dw = final_norm_->gradient});
      break;
    case Part::kMtp:
      // Deepest first: a module reads what the one before it keeps until its own turn.
      mtp_[part.index]->BackwardWeight(context, part.phase, MtpInput(context, part.index));
      break;
  }
  if (phase > 0) return absl::OkStatus();
  // The gradient of the input may still have to be sent.
  weights_done_[microbatch] = true;
  if (spec_.has_embedding || !tape.Has(d_[0])) FinishTape(microbatch);
  return absl::OkStatus();
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
  if (weights_done_[microbatch]) FinishTape(microbatch);
}

void TransformerStage::ReadLater(const Context& context, ConstTensorView view,
                                 std::vector<double>& sums, int gate) {
  if (num_pending_ == pending_.size()) pending_.emplace_back();
  PendingRead& read = pending_[num_pending_++];
  read.bytes.resize(view.bytes());
  read.batch = &context.batch;
  read.sums = &sums;
  read.gate = gate;
  device_.Copy(view, TensorView(read.bytes.data(), view.dtype(), view.shape()), context.stream);
}

void TransformerStage::AddToSums(const PendingRead& read) const {
  const MicrobatchInput& batch = *read.batch;
  std::vector<double>& sums = *read.sums;
  if (read.gate >= 0) {
    const auto* values = reinterpret_cast<const double*>(read.bytes.data());
    for (int64_t s = 0; s < batch.num_sequences; ++s) {
      sums[(batch.first_sequence + s) * sums_->num_gates + read.gate] = values[s];
    }
    return;
  }
  const auto* losses = reinterpret_cast<const float*>(read.bytes.data());
  for (int64_t s = 0; s < batch.num_sequences; ++s) {
    double sum = 0;
    for (int64_t t = 0; t < batch.sequence_length; ++t)
      sum += losses[s * batch.sequence_length + t];
    sums[batch.first_sequence + s] += sum;
  }
}

void TransformerStage::FinishStep() {
  for (size_t i = 0; i < num_pending_; ++i) AddToSums(pending_[i]);
  num_pending_ = 0;
}

void TransformerStage::AddSums(const Context& context, ConstTensorView token_losses,
                               std::vector<double>& sums) {
  ReadLater(context, token_losses, sums, -1);
}

absl::Status TransformerStage::ReadGateLosses(const Context& context, MoeLayer& layer) {
  const auto gate = std::find_if(gates_.begin(), gates_.end(),
                                 [&](const Gate& one) { return one.layer == &layer; });
  ReadLater(context, layer.balance(context), sums_->balance, gate->index);
  ReadLater(context, layer.z(context), sums_->z, gate->index);
  return sums_->expert_share.empty() ? absl::OkStatus() : ReadExpertShares(context, *gate);
}

absl::Status TransformerStage::ReadExpertShares(const Context& context, const Gate& gate) {
  const MicrobatchInput& batch = context.batch;
  const int64_t experts = sums_->num_experts;
  std::vector<float> scores(batch.num_tokens() * experts);
  // Read at once: the scores of all microbatches together would be large.
  const ConstTensorView on_device = gate.layer->scores(context);
  device_.Copy(on_device, TensorView(scores.data(), DType::kF32, on_device.shape()),
               context.stream);
  RETURN_IF_ERROR(context.stream.Synchronize());
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
