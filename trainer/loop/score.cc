#include "trainer/loop/score.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoints/huggingface/name_map.h"
#include "checkpoints/safetensors.h"
#include "kernels/core/status_macros.h"
#include "kernels/ops/cast.h"
#include "trainer/loop/device_batch.h"
#include "trainer/loop/load_model.h"

namespace sluice::trainer {
namespace {

absl::StatusOr<std::vector<std::vector<int32_t>>> ToIds(const ScoreOptions& options,
                                                        const LoadedModel& loaded,
                                                        const std::vector<ScoreInput>& inputs) {
  std::unique_ptr<data::Tokenizer> tokenizer;
  if (std::any_of(inputs.begin(), inputs.end(),
                  [](const ScoreInput& input) { return input.is_text; })) {
    ASSIGN_OR_RETURN(tokenizer, LoadTokenizerOf(loaded.generation, options.tokenizer));
  }
  const int64_t most = loaded.config.train().sequence_length() + 1,
                vocabulary = loaded.config.model().vocab_size();
  std::vector<std::vector<int32_t>> lines;
  for (const ScoreInput& input : inputs) {
    lines.push_back(input.is_text ? tokenizer->Encode(input.text) : input.ids);
    const int64_t count = static_cast<int64_t>(lines.back().size());
    const int64_t number = input.line > 0 ? input.line : std::ssize(lines);
    if (count < 2 || count > most) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": found ", count, " tokens, wanted 2 to ", most));
    }
    for (int32_t id : lines.back()) {
      if (id >= 0 && id < vocabulary) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": found token ", id, ", wanted 0 to ", vocabulary - 1));
    }
  }
  return lines;
}

// One sequence a line, padded; padding is no target.
HostBatch ToBatch(const std::vector<std::vector<int32_t>>& lines, int64_t length) {
  HostBatch batch;
  for (const std::vector<int32_t>& ids : lines) {
    std::vector<int32_t> row = ids;
    row.resize(length + 1, 0);
    batch.tokens.insert(batch.tokens.end(), row.begin(), row.end());
    batch.document_starts.emplace_back();
    batch.num_targets.push_back(static_cast<int64_t>(ids.size()) - 1);
  }
  return batch;
}

using checkpoints::SafetensorsEntry;

template <typename T>
absl::Status WriteTensors(const std::string& path, const std::vector<SafetensorsEntry>& tensors,
                          const std::vector<std::vector<T>>& values) {
  std::vector<const void*> data;
  for (const std::vector<T>& value : values) data.push_back(value.data());
  const auto files = checkpoints::CreatePosixFileSystem();
  return checkpoints::WriteSafetensors(*files, path, tensors, data);
}

absl::Status WriteGradients(RankModel& model, int64_t num_targets, const std::string& path) {
  std::vector<SafetensorsEntry> tensors;
  std::vector<std::vector<float>> values;
  std::map<std::string, size_t>
      place;  // a named tensor may be cut in several pieces of a parameter
  const std::string& model_type = model.config().model().model_type();
  for (const auto& parameter : model.store().parameters()) {
    const float* gradient = parameter->gradient.data<float>();
    for (const NamedPiece& piece : parameter->pieces) {
      const auto [it, is_new] = place.emplace(piece.name, tensors.size());
      if (is_new) {
        tensors.push_back({.name = checkpoints::DiskName(model_type, piece.name),
                           .dtype = DType::kF32,
                           .shape = piece.shape});
        int64_t elements = 1;
        for (int64_t extent : piece.shape) elements *= extent;
        values.emplace_back(elements);
      }
      for (int64_t i = 0; i < piece.count; ++i) {
        values[it->second][piece.begin + i] =
            gradient[piece.offset + i] / static_cast<float>(num_targets);
      }
    }
  }
  return WriteTensors(path, tensors, values);
}

absl::Status WriteLogits(const std::vector<std::vector<float>>& logits, int64_t vocabulary,
                         const std::string& path) {
  std::vector<SafetensorsEntry> tensors;
  for (size_t line = 0; line < logits.size(); ++line) {
    const int64_t rows = static_cast<int64_t>(logits[line].size()) / vocabulary;
    tensors.push_back(
        {.name = absl::StrCat("logits.", line), .dtype = DType::kF32, .shape = {rows, vocabulary}});
  }
  return WriteTensors(path, tensors, logits);
}

// What the gates choose, a tensor a line and layer.
class RouteTensors {
 public:
  RouteTensors(const RankModel& model, const std::vector<std::vector<int32_t>>& lines)
      : model_(model), lines_(lines) {}

  void Attach() {
    for (const auto& stage : model_.stages()) {
      stage->set_row_visitor(
          [this](const char* what, int layer, const MicrobatchInput& input, ConstTensorView rows) {
            if (what == std::string("routes")) Add(layer, input, rows);
          });
    }
  }
  void Detach() {
    for (const auto& stage : model_.stages()) stage->set_row_visitor(nullptr);
  }
  absl::Status Write(const std::string& path) const {
    return WriteTensors(path, tensors_, values_);
  }

 private:
  // A line is a sequence, and a microbatch has one.
  void Add(int layer, const MicrobatchInput& input, ConstTensorView rows) {
    if (layer >= model_.config().model().num_hidden_layers()) return;
    const int64_t line = input.first_sequence, k = rows.extent(1);
    const int64_t tokens =
        std::min(static_cast<int64_t>(lines_[line].size()), input.sequence_length);
    tensors_.push_back({.name = absl::StrCat("routes.", line, ".", layer),
                        .dtype = DType::kI32,
                        .shape = {tokens, k}});
    const int32_t* data = rows.data<int32_t>();
    values_.emplace_back(data, data + tokens * k);
  }

  const RankModel& model_;
  const std::vector<std::vector<int32_t>>& lines_;
  std::vector<SafetensorsEntry> tensors_;
  std::vector<std::vector<int32_t>> values_;
};

}  // namespace

absl::StatusOr<std::vector<std::vector<float>>> Score(const ScoreOptions& options,
                                                      const std::vector<ScoreInput>& inputs,
                                                      const RankContext& rank) {
  std::vector<std::vector<float>> logprobs;
  if (rank.world->rank() != 0) return logprobs;
  const auto self = parallel::CreateSelfCommunicator();
  RankContext alone = rank;
  alone.world = self.get();
  ASSIGN_OR_RETURN(
      LoadedModel loaded,
      LoadModel(options.checkpoint, alone,
                options.gradients_path.empty() ? LoadFor::kForward : LoadFor::kGradients));
  ASSIGN_OR_RETURN(const auto lines, ToIds(options, loaded, inputs));
  if (lines.empty()) return logprobs;
  RankModel& model = *loaded.model;
  const int64_t length = loaded.config.train().sequence_length(),
                vocabulary = loaded.config.model().vocab_size();
  const HostBatch host = ToBatch(lines, length);
  BatchOptions batch_options;
  batch_options.sequence_length = length;
  batch_options.mtp_depth = loaded.config.model().num_nextn_predict_layers();
  DeviceBatch batch(model.device(), batch_options);
  RETURN_IF_ERROR(batch.Load(host, 0));
  logprobs.resize(lines.size());
  std::vector<std::vector<float>> logits(options.logits_path.empty() ? 0 : lines.size());
  TransformerStage& last = *model.stages().back();
  last.set_head_visitor([&](const Context& context, const HeadOutput& out) {
    const int64_t line = context.batch.first_sequence, count = host.num_targets[line];
    const float* loss = out.loss.data<float>();
    for (int64_t i = 0; i < count; ++i) logprobs[line].push_back(-loss[i]);
    if (logits.empty()) return;
    const int64_t rows =
        std::min(count + 1, length);  // nothing follows the last token of a full sequence
    logits[line].resize(rows * vocabulary);
    out.head->Logits(context, out.hidden.Rows(0, rows),
                     TensorView(logits[line].data(), DType::kF32, {rows, vocabulary}));
  });
  RouteTensors routes(model, lines);
  if (!options.routes_path.empty()) routes.Attach();
  SequenceSums sums;
  sums.Reset(static_cast<int64_t>(lines.size()), model.num_gates());
  const bool gradients = !options.gradients_path.empty();
  for (int group = 0; gradients && group < kNumParameterGroups; ++group) {
    const TensorView flat = model.store().gradients(static_cast<ParameterGroup>(group));
    if (flat.num_elements() > 0) kernels::Fill(model.stream(), flat, 0);
  }
  RETURN_IF_ERROR(model.Run(batch.inputs(), LossScales(), gradients, &sums));
  last.set_head_visitor(nullptr);
  routes.Detach();
  if (gradients)
    RETURN_IF_ERROR(WriteGradients(model, batch.num_targets(), options.gradients_path));
  if (!options.routes_path.empty()) RETURN_IF_ERROR(routes.Write(options.routes_path));
  if (!logits.empty()) RETURN_IF_ERROR(WriteLogits(logits, vocabulary, options.logits_path));
  return logprobs;
}

}  // namespace sluice::trainer
