#include "trainer/loop/load_model.h"

#include <filesystem>
#include <numeric>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/text_format.h"
#include "kernels/core/status_macros.h"
#include "trainer/loop/fp8_report.h"
#include "trainer/loop/resume.h"
#include "trainer/loop/run_state.h"

namespace sluice::trainer {

absl::StatusOr<LoadedModel> LoadModel(const std::string& checkpoint, const RankContext& rank,
                                      LoadFor use, checkpoints::WeightSet weights) {
  const auto files = checkpoints::CreatePosixFileSystem();
  LoadedModel loaded;
  ASSIGN_OR_RETURN(loaded.generation, FindCheckpoint(checkpoint, rank, *files));
  RunConfig stored;
  const auto read = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(auto reader, checkpoints::CheckpointReader::Open(*files, loaded.generation));
    if (!google::protobuf::TextFormat::ParseFromString(reader->metadata().config_textproto(),
                                                       &stored)) {
      return absl::DataLossError(
          absl::StrCat(loaded.generation, ": its configuration is not readable"));
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(AgreeOnStatus(*rank.world, read()));
  const int ranks = rank.world->size();
  stored.mutable_mesh()->set_pipe(1);
  stored.mutable_mesh()->set_data(ranks);
  stored.mutable_mesh()->set_expert(stored.model().n_routed_experts() > 0
                                        ? std::gcd(ranks, stored.model().n_routed_experts())
                                        : 1);
  stored.clear_schedule();  // the model's default: a load-balancing loss asks for another one
  stored.clear_schedule_chunks();
  stored.clear_stage_layers();
  stored.mutable_train()->set_microbatch(1);
  stored.mutable_train()->set_global_batch(ranks);
  stored.mutable_train()->set_batch_ramp_start(0);
  stored.mutable_train()->set_ema_decay(0);
  // Merged adapters are no codes.
  if (stored.finetune().mode() == "lora") stored.mutable_compute()->set_keep_fp8_weights(false);
  // Frozen weights have neither masters nor moments.
  stored.mutable_finetune()->Clear();
  ASSIGN_OR_RETURN(loaded.config, Resolve(stored, ranks));
  // (Refused of a run that trains in FP8.)
  if (use == LoadFor::kForward) loaded.config.mutable_finetune()->set_freeze(".");
  ASSIGN_OR_RETURN(loaded.model, RankModel::Create(loaded.config, rank));
  LoadOptions options;
  options.weights_only = options.merge_adapters = true;
  options.weights = weights;
  ASSIGN_OR_RETURN(const RunState state,
                   LoadState(*loaded.model, loaded.generation, options, *files));
  RETURN_IF_ERROR(DemoteLayers(*loaded.model, state.fp8_demoted));
  loaded.step = state.step;
  return loaded;
}

RunConfig ConfigToRead(const LoadedModel& loaded) {
  namespace fs = std::filesystem;
  RunConfig config = loaded.config;
  data::DataConfig& data = *config.mutable_data();
  std::error_code error;
  // RUN/checkpoints/GENERATION
  const fs::path tokenizer =
      fs::absolute(loaded.generation, error).lexically_normal() / "../../tokenizer.json";
  if (fs::exists(tokenizer, error)) data.set_tokenizer(tokenizer.lexically_normal().string());
  data.clear_train();
  data.clear_sft();
  return config;
}

absl::StatusOr<std::unique_ptr<data::Tokenizer>> LoadTokenizerOf(const std::string& generation,
                                                                 const std::string& path) {
  const auto files = checkpoints::CreatePosixFileSystem();
  ASSIGN_OR_RETURN(auto reader, checkpoints::CheckpointReader::Open(*files, generation));
  std::string found = path;
  if (found.empty()) {
    // RUN/checkpoints/GENERATION
    const std::filesystem::path absolute = std::filesystem::absolute(generation).lexically_normal();
    std::filesystem::path folder = absolute.has_filename() ? absolute : absolute.parent_path();
    found = (folder.parent_path().parent_path() / "tokenizer.json").string();
  }
  ASSIGN_OR_RETURN(auto tokenizer, data::LoadTokenizer(found));
  if (tokenizer->hash() != reader->metadata().tokenizer_hash()) {
    return absl::FailedPreconditionError(absl::StrCat(
        found, ": found a tokenizer with hash ", tokenizer->hash(), ", wanted the one of ",
        generation, ", ", reader->metadata().tokenizer_hash()));
  }
  return tokenizer;
}

}  // namespace sluice::trainer
