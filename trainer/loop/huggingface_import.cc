#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoints/file_system.h"
#include "checkpoints/huggingface/layout.h"
#include "checkpoints/reader.h"
#include "data/tokenizer.h"
#include "google/protobuf/text_format.h"
#include "kernels/core/status_macros.h"
#include "trainer/loop/huggingface.h"
#include "trainer/loop/keep_tokenizer.h"
#include "trainer/loop/text_file.h"
#include "trainer/loop/trainer.h"
#include "trainer/model/huggingface_config.h"

namespace sluice::trainer {
namespace {

namespace fs = std::filesystem;

constexpr uintmax_t kMostSideFileBytes = 256'000'000;  // tokenizers have tens of megabytes

bool IsWeights(const std::string& name) {
  for (const char* suffix : {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json",
                             ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack"}) {
    if (absl::EndsWith(name, suffix)) return true;
  }
  return false;
}

// Everything that an export must give back besides weights, and the run's own tokenizer.
absl::Status CopySideFiles(const ImportRequest& request, bool has_tokenizer) {
  std::error_code error;
  const fs::path from = request.from, to = fs::path(request.to) / kHuggingFaceFolder;
  const auto overwrite = fs::copy_options::overwrite_existing;
  fs::create_directories(to, error);
  for (const auto& entry : fs::directory_iterator(from, error)) {
    const std::string name = entry.path().filename().string();
    const bool is_index = name == checkpoints::kIndexName;
    if (!entry.is_regular_file(error) || (IsWeights(name) && !is_index)) continue;
    if (entry.file_size(error) > kMostSideFileBytes) continue;
    if (!error) fs::copy_file(entry.path(), to / name, overwrite, error);
    if (error) break;
  }
  if (!error) {
    return has_tokenizer ? KeepTokenizer(TokenizerIn(request.from), request.to) : absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat(
      from.string(), ": its small files cannot be copied to ", to.string(), ": ", error.message()));
}

absl::StatusOr<RunConfig> MakeRunConfig(const HuggingFaceConfig& source,
                                        const ImportRequest& request) {
  RunConfig config;
  *config.mutable_model() = source.model;
  if (request.without_mtp) config.mutable_model()->set_num_nextn_predict_layers(0);
  config.mutable_train()->set_sequence_length(
      std::min(4096, source.model.max_position_embeddings()));
  config.mutable_compute()->set_precision(source.dtype == "float32" ? "FP32" : "BF16");
  config.mutable_run()->set_dir(request.to);
  const std::string tokenizer = (fs::path(request.to) / "tokenizer.json").string();
  config.mutable_data()->set_tokenizer(tokenizer);
  if (request.edit) RETURN_IF_ERROR(request.edit(config));
  return Resolve(config, 1);
}

// The hash of the source's tokenizer, or nothing and a warning.
std::string TokenizerHash(const ImportRequest& request) {
  const auto tokenizer = data::LoadTokenizer(TokenizerIn(request.from));
  if (tokenizer.ok()) return (*tokenizer)->hash();
  if (request.print) {
    request.print(absl::StrCat("warning: no tokenizer that this program reads (",
                               tokenizer.status().message(),
                               "): only token ids can be trained on, scored and generated; its "
                               "files are kept for an export"));
  }
  return "";
}

absl::Status WriteRecords(const ImportRequest& request, const RunConfig& config,
                          const ImportResult& result) {
  const fs::path side = fs::path(request.to) / kHuggingFaceFolder;
  RunConfig start = config;
  // What is trained by default depends on finetune.mode, which is yet to be chosen.
  start.clear_finetune();
  std::string text;
  google::protobuf::TextFormat::PrintToString(start, &text);
  RETURN_IF_ERROR(WriteText(fs::path(request.to) / "config.textproto", text));
  RETURN_IF_ERROR(WriteText(side / "certificate.json", result.certificate.ToJson()));
  return WriteText(side / "certificate.txt",
                   absl::StrCat(result.certificate.ToText(), "\nkeys of config.json:\n  ",
                                absl::StrJoin(result.config_keys, "\n  "), "\n"));
}

}  // namespace

absl::StatusOr<ImportResult> ImportHuggingFace(const ImportRequest& request) {
  const auto files = checkpoints::CreatePosixFileSystem();
  std::error_code not_there;
  if (fs::equivalent(request.from, request.to, not_there)) {
    return absl::InvalidArgumentError(absl::StrCat(
        request.to, ": found the directory that is read, wanted another to write to"));
  }
  const std::string checkpoints_dir = checkpoints::JoinPath(request.to, "checkpoints");
  const auto generations = checkpoints::ListGenerations(*files, checkpoints_dir);
  if (generations.ok() && !generations->empty()) {
    return absl::AlreadyExistsError(
        absl::StrCat(request.to, ": found a checkpoint, wanted a folder without one"));
  }
  ASSIGN_OR_RETURN(
      const std::string json,
      checkpoints::ReadWholeFile(*files, checkpoints::JoinPath(request.from, "config.json"),
                                 kMostConfigBytes));
  ASSIGN_OR_RETURN(const HuggingFaceConfig source, ParseHuggingFaceConfig(json, request.ignore));
  ASSIGN_OR_RETURN(const RunConfig config, MakeRunConfig(source, request));
  checkpoints::ImportOptions options;
  options.from = request.from;
  options.to = checkpoints_dir;
  options.tensors = MakeTensorMap(config.model());
  options.progress = request.progress;
  for (int depth = 0; request.without_mtp && depth < source.model.num_nextn_predict_layers();
       ++depth) {
    options.leave_out.push_back(
        absl::StrCat("model.layers.", source.model.num_hidden_layers() + depth, "."));
  }
  options.metadata.set_tokenizer_hash(TokenizerHash(request));
  options.metadata.set_mesh("imported");
  google::protobuf::TextFormat::PrintToString(config, options.metadata.mutable_config_textproto());
  options.before_writing = [&] {
    return CopySideFiles(request, !options.metadata.tokenizer_hash().empty());
  };
  ASSIGN_OR_RETURN(checkpoints::Imported imported, checkpoints::Import(*files, options));
  ImportResult result{std::move(imported.generation), std::move(imported.certificate), source.keys};
  result.certificate.title = absl::StrCat("import of ", request.from, " to ", request.to);
  RETURN_IF_ERROR(WriteRecords(request, config, result));
  return result;
}

}  // namespace sluice::trainer
