#include "trainer/loop/run_data.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "data/sft_source.h"
#include "kernels/core/status_macros.h"
#include "trainer/loop/prepare_data.h"
#include "trainer/loop/run_state.h"

namespace sluice::trainer {

namespace {

// Rank 0 prepares; the others learn the paths.
absl::StatusOr<PreparedData> PrepareOnFirstRank(const RunConfig& config, const RankContext& rank) {
  absl::StatusOr<PreparedData> prepared = PreparedData();
  std::string text;
  if (rank.world->rank() == 0) {
    prepared = PrepareData(config.data(), std::max(1, rank.ranks_on_host), rank.print);
    if (prepared.ok()) {
      absl::StrAppend(&text, prepared->tokenizer, "\n");
      for (const std::string& path : prepared->train) absl::StrAppend(&text, path, "\n");
      for (const std::string& path : prepared->validation) absl::StrAppend(&text, path, "\n");
    }
  }
  RETURN_IF_ERROR(AgreeOnStatus(*rank.world, prepared.status()));
  ASSIGN_OR_RETURN(text, rank.world->BroadcastBytes(text, 0));
  const std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipEmpty());
  prepared->sft_train = !config.data().sft().empty();
  prepared->sft_validation = !config.data().sft_validation().empty();
  const int num_train = prepared->sft_train ? config.data().sft_size() : config.data().train_size();
  prepared->tokenizer = lines[0];
  prepared->train.assign(lines.begin() + 1, lines.begin() + 1 + num_train);
  prepared->validation.assign(lines.begin() + 1 + num_train, lines.end());
  return prepared;
}

// How conversations fill sequences, and what of them does not fit.
std::string PackingText(absl::string_view field, const data::SftPacking& packing, int length) {
  const double places = static_cast<double>(packing.sequences) * (length + 1);
  const double full = static_cast<double>(packing.tokens) / places;
  std::string text = absl::StrFormat("%s: %d conversations packed into %d sequences, %.1f%% full",
                                     field, packing.conversations, packing.sequences, 100 * full);
  if (packing.num_cut > 0) {
    absl::StrAppendFormat(&text, "; warning: %d longer than train.sequence_length %d are cut",
                          packing.num_cut, length);
  }
  if (packing.num_useless > 0) {
    absl::StrAppendFormat(&text, ", %d of them before their first answer, so left out",
                          packing.num_useless);
  }
  return text;
}

// Conversations, in the order of an epoch without end or once as they are packed.
absl::StatusOr<std::unique_ptr<data::BatchSource>> OpenConversations(
    const RunConfig& config, const std::vector<std::string>& paths,
    const data::Tokenizer& tokenizer, bool is_training, const RankContext& rank) {
  data::SftSourceOptions options;
  options.paths = paths;
  options.sequence_length = static_cast<int>(config.train().sequence_length());
  options.seed = config.train().seed();
  options.shuffle = is_training && config.data().shuffle();
  options.repeat = is_training;
  options.tokenizer_hash = tokenizer.hash();
  ASSIGN_OR_RETURN(auto source, data::SftSource::Create(options));
  if (rank.print && (is_training || source->packing().num_cut > 0)) {
    rank.print(PackingText(is_training ? "data.sft" : "data.sft_validation", source->packing(),
                           options.sequence_length));
  }
  return source;
}

absl::StatusOr<std::unique_ptr<data::BatchSource>> OpenValidation(const RunConfig& config,
                                                                  const PreparedData& prepared,
                                                                  const data::Tokenizer& tokenizer,
                                                                  const RankContext& rank) {
  if (prepared.sft_validation) {
    return OpenConversations(config, prepared.validation, tokenizer, /*is_training=*/false, rank);
  }
  return data::MakeSequentialSource(
      prepared.validation, static_cast<int>(config.train().sequence_length()), tokenizer.hash());
}

absl::StatusOr<std::unique_ptr<data::BatchSource>> OpenTrain(const RunConfig& config,
                                                             const PreparedData& prepared,
                                                             const data::Tokenizer& tokenizer,
                                                             const RankContext& rank) {
  if (prepared.sft_train) {
    return OpenConversations(config, prepared.train, tokenizer, /*is_training=*/true, rank);
  }
  data::BatchSourceOptions options;
  bool weighted = false;
  for (const auto& source : config.data().train()) weighted = weighted || source.weight() > 0;
  if (weighted) {
    for (int i = 0; i < config.data().train_size(); ++i) {
      options.sources.push_back({{prepared.train[i]}, config.data().train(i).weight()});
    }
  } else {
    options.sources.push_back({prepared.train, 0});
  }
  options.sequence_length = config.train().sequence_length();
  options.seed = config.train().seed();
  options.shuffle = config.data().shuffle();
  options.tokenizer_hash = tokenizer.hash();
  if (config.data().fim_rate() > 0) {
    options.fim_rate = config.data().fim_rate();
    ASSIGN_OR_RETURN(options.fim_tokens, data::FindFimTokens(tokenizer));
  }
  return data::MakeBatchSource(options);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RunData>> RunData::Open(const RunConfig& config,
                                                       const RankContext& rank) {
  ASSIGN_OR_RETURN(const PreparedData prepared, PrepareOnFirstRank(config, rank));
  std::unique_ptr<RunData> run(new RunData());
  run->tokenizer_path_ = prepared.tokenizer;
  const auto open = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(run->tokenizer_, data::LoadTokenizer(prepared.tokenizer));
    if (run->tokenizer_->vocab_size() > config.model().vocab_size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.vocab_size: found ", config.model().vocab_size(),
                       ", wanted at least the tokenizer's ", run->tokenizer_->vocab_size()));
    }
    if (!prepared.train.empty()) {
      ASSIGN_OR_RETURN(run->train_, OpenTrain(config, prepared, *run->tokenizer_, rank));
    }
    if (prepared.validation.empty()) return absl::OkStatus();
    run->validates_conversations_ = prepared.sft_validation;
    ASSIGN_OR_RETURN(run->validation_, OpenValidation(config, prepared, *run->tokenizer_, rank));
    const data::DataSetInfo& info = run->validation_->info();
    run->validation_bytes_per_token_ =
        static_cast<double>(info.text_bytes) / static_cast<double>(info.num_tokens);
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(AgreeOnStatus(*rank.world, open()));
  return run;
}

absl::Status RunData::Read(const data::BatchSource& source, int64_t first, int64_t count,
                           HostBatch* batch) {
  const int64_t row = source.sequence_length() + 1;
  data::DocumentStarts starts;
  batch->tokens.resize(count * row);
  RETURN_IF_ERROR(
      source.Read(first, static_cast<int>(count), std::span<int32_t>(batch->tokens), &starts));
  batch->is_target.resize(count * row);
  RETURN_IF_ERROR(
      source.ReadTargetMask(first, static_cast<int>(count), std::span<uint8_t>(batch->is_target)));
  batch->document_starts.resize(count);
  batch->num_targets.resize(count);
  for (int64_t s = 0; s < count; ++s) {
    const std::span<const int32_t> places = starts.Of(static_cast<int>(s));
    batch->document_starts[s].assign(places.begin(), places.end());
    batch->num_targets[s] = source.NumTargets(first + s);
  }
  return absl::OkStatus();
}

absl::Status RunData::ReadTrain(int64_t first, int64_t count, HostBatch* batch) const {
  return Read(*train_, first, count, batch);
}

absl::Status RunData::ReadValidation(int64_t first, int64_t count, HostBatch* batch) const {
  return Read(*validation_, first, count, batch);
}

int64_t RunData::num_validation_sequences() const {
  return validation_ != nullptr ? validation_->num_samples_per_epoch() : 0;
}

}  // namespace sluice::trainer
