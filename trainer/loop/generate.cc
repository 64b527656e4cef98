#include "trainer/loop/generate.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "data/chat_template.h"
#include "kernels/core/status_macros.h"
#include "trainer/loop/decoder.h"
#include "trainer/loop/device_batch.h"
#include "trainer/loop/load_model.h"
#include "trainer/loop/resolve_config.h"

namespace sluice::trainer {
namespace {

std::vector<int32_t> EncodePrompt(const data::Tokenizer& tokenizer, const std::string& prompt) {
  std::vector<int32_t> ids = tokenizer.Encode(prompt);
  // Without a prompt the text begins where documents do.
  if (ids.empty())
    ids.push_back(std::max(0, tokenizer.bos_id() >= 0 ? tokenizer.bos_id() : tokenizer.eos_id()));
  return ids;
}

struct Start {
  std::vector<int32_t> ids;
  int32_t end_id = -1;  // ends the text, beside EOS
};

absl::StatusOr<Start> StartOf(const GenerateOptions& options, const data::Tokenizer& tokenizer) {
  if (options.chat_template.empty()) return Start{.ids = EncodePrompt(tokenizer, options.prompt)};
  ASSIGN_OR_RETURN(const auto chat,
                   data::ChatTemplate::Create(options.chat_template, tokenizer, {}));
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, chat->TokenizePrompt({.prompt = options.prompt}));
  if (ids.empty()) ids = EncodePrompt(tokenizer, "");  // raw without BOS
  return Start{.ids = std::move(ids), .end_id = chat->end_id()};
}

// Released models have more rows than their tokenizers have tokens: those are never chosen.
std::span<const float> OfTokens(std::span<const float> logits, const data::Tokenizer& tokenizer) {
  return logits.first(std::min(logits.size(), static_cast<size_t>(tokenizer.vocab_size())));
}

}  // namespace

absl::StatusOr<std::string> Generate(const GenerateOptions& options, const RankContext& rank) {
  if (rank.world->rank() != 0) return std::string();
  const auto self = parallel::CreateSelfCommunicator();
  RankContext alone = rank;
  alone.world = self.get();
  ASSIGN_OR_RETURN(LoadedModel loaded, LoadModel(options.checkpoint, alone));
  ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizerOf(loaded.generation, options.tokenizer));
  ASSIGN_OR_RETURN(Start start, StartOf(options, *tokenizer));
  std::vector<int32_t>& ids = start.ids;
  const auto prompt_size = static_cast<int64_t>(ids.size());
  const int64_t most = loaded.config.model().max_position_embeddings();
  const int64_t total = static_cast<int64_t>(ids.size()) + options.max_tokens;
  if (options.max_tokens < 1 || total > most) {
    return absl::InvalidArgumentError(
        absl::StrCat("generation: found ", ids.size(), " tokens of prompt and ", options.max_tokens,
                     " to generate, wanted at least 1 and at most ", most, " together"));
  }
  ASSIGN_OR_RETURN(const auto decoder, Decoder::Create(*loaded.model, most));
  std::span<const float> logits;
  for (int32_t id : ids) {
    ASSIGN_OR_RETURN(logits, decoder->Step(id));
  }
  for (int64_t i = 0; i < options.max_tokens; ++i) {
    const int32_t next =
        SampleToken(OfTokens(logits, *tokenizer), options.sampling, decoder->position());
    if (next == tokenizer->eos_id() || next == start.end_id) break;
    ids.push_back(next);
    if (i + 1 == options.max_tokens) break;
    ASSIGN_OR_RETURN(logits, decoder->Step(next));
  }
  if (!options.chat_template.empty()) ids.erase(ids.begin(), ids.begin() + prompt_size);
  return tokenizer->Decode(ids);
}

absl::StatusOr<std::string> SampleText(RankModel& model, const data::Tokenizer& tokenizer,
                                       const std::string& prompt, int64_t max_tokens,
                                       const SamplingOptions& sampling) {
  const RunConfig& config = model.config();
  const int64_t length = config.train().sequence_length(), vocabulary = config.model().vocab_size();
  // The shapes of training: microbatches of the usual size, as many as the schedule can run.
  BatchOptions options;
  options.sequence_length = length;
  options.microbatch = config.train().microbatch();
  options.mtp_depth = config.model().num_nextn_predict_layers();
  DeviceBatch batch(model.device(), options);
  const int64_t sequences = int64_t{options.microbatch} * model.microbatch_unit();
  std::vector<int32_t> ids = EncodePrompt(tokenizer, prompt);
  if (static_cast<int64_t>(ids.size()) > length) ids.resize(length);
  const int last_rank = model.last_pipe_rank() * config.mesh().data();
  std::vector<float> logits(vocabulary);
  TransformerStage* last = model.has_last_stage() ? model.stages().back().get() : nullptr;
  if (last != nullptr) {
    last->set_head_visitor([&](const Context& context, const HeadOutput& out) {
      if (context.batch.first_sequence != 0) return;
      const int64_t row = static_cast<int64_t>(ids.size()) - 1;
      out.head->Logits(context, out.hidden.Rows(row, 1),
                       TensorView(logits.data(), DType::kF32, {1, vocabulary}));
    });
  }
  absl::Status status;
  for (int64_t i = 0; i < max_tokens && static_cast<int64_t>(ids.size()) < length && status.ok();
       ++i) {
    HostBatch host;
    host.tokens.assign(sequences * (length + 1), 0);
    std::copy(ids.begin(), ids.end(), host.tokens.begin());
    host.document_starts.resize(sequences);
    host.num_targets.assign(sequences, length);
    SequenceSums sums;
    sums.Reset(sequences, model.num_gates());
    status = batch.Load(host, 0);
    if (status.ok()) status = model.Run(batch.inputs(), LossScales(), false, &sums);
    if (!status.ok()) break;
    int64_t next =
        last != nullptr ? SampleToken(OfTokens(logits, tokenizer), sampling, std::ssize(ids)) : 0;
    status =
        model.world().Broadcast(TensorView(&next, DType::kI64, {1}), last_rank, model.stream());
    if (next == tokenizer.eos_id()) break;
    ids.push_back(static_cast<int32_t>(next));
  }
  if (last != nullptr) last->set_head_visitor(nullptr);
  RETURN_IF_ERROR(status);
  return tokenizer.Decode(ids);
}

}  // namespace sluice::trainer
