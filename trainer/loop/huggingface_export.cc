#include <filesystem>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoints/file_system.h"
#include "checkpoints/huggingface/export.h"
#include "checkpoints/inspect.h"
#include "checkpoints/reader.h"
#include "data/tokenizer.h"
#include "google/protobuf/text_format.h"
#include "kernels/core/status_macros.h"
#include "trainer/loop/huggingface.h"
#include "trainer/loop/keep_tokenizer.h"
#include "trainer/loop/text_file.h"
#include "trainer/loop/trainer.h"
#include "trainer/model/huggingface_config.h"
#include "trainer/model/model_config.h"

namespace sluice::trainer {
namespace {

namespace fs = std::filesystem;
using checkpoints::CheckpointReader;

// A checkpoint with its configuration.
struct Stored {
  std::unique_ptr<CheckpointReader> reader;
  RunConfig config;
  bool is_import() const { return reader->metadata().info().contains(checkpoints::kLayoutKey); }
  fs::path run_folder() const {  // RUN/checkpoints/GENERATION
    return fs::absolute(reader->generation_dir()).lexically_normal().parent_path().parent_path();
  }
};

absl::StatusOr<Stored> OpenStored(checkpoints::FileSystem& files, const std::string& path,
                                  const ExportRequest& request, checkpoints::WeightSet weights) {
  ASSIGN_OR_RETURN(const std::string generation,
                   checkpoints::ResolveCheckpoint(files, path, [&](absl::string_view message) {
                     if (request.print) request.print(std::string(message));
                   }));
  Stored stored;
  ASSIGN_OR_RETURN(stored.reader, CheckpointReader::Open(files, generation, weights));
  if (!google::protobuf::TextFormat::ParseFromString(stored.reader->metadata().config_textproto(),
                                                     &stored.config)) {
    return absl::DataLossError(absl::StrCat(generation, ": its configuration is not readable"));
  }
  ResolveModel(*stored.config.mutable_model());
  return stored;
}

// The import that the run's weights come from, through any number of runs; null if there is none.
absl::StatusOr<std::unique_ptr<Stored>> FindSource(checkpoints::FileSystem& files,
                                                   const Stored& from,
                                                   const ExportRequest& request) {
  constexpr int kMostRuns = 16;
  if (from.is_import()) return nullptr;
  std::string path = request.source.empty() ? from.config.run().init_from() : request.source;
  for (int i = 0; i < kMostRuns && !path.empty(); ++i) {
    absl::StatusOr<Stored> stored =
        OpenStored(files, path, request, checkpoints::WeightSet::kMasters);
    if (!stored.ok()) {
      if (!request.source.empty()) return stored.status();
      if (request.print) {
        request.print(absl::StrCat("warning: the weights this run started from are not there (",
                                   stored.status().message(),
                                   "): element types and files are chosen anew (--source DIR)"));
      }
      return nullptr;
    }
    if (stored->is_import()) return std::make_unique<Stored>(*std::move(stored));
    path = stored->config.run().init_from();
  }
  return nullptr;
}

// Files that are written here and not copied.
bool IsOurs(const std::string& name) {
  return name == "config.json" || name == checkpoints::kIndexName || name == "certificate.json" ||
         name == "certificate.txt";
}

absl::Status CopyFiles(const fs::path& from, const fs::path& to) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(from, error)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file(error) || IsOurs(name)) continue;
    fs::copy_file(entry.path(), to / name, error);
    if (error) break;
  }
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(from.string(), ": its files cannot be copied to ",
                                             to.string(), ": ", error.message()));
}

// config.json: the source's own text where it still says the truth.
absl::Status WriteConfig(const Stored& from, const fs::path& side, const std::string& source_text,
                         const checkpoints::Exported& exported, const ExportRequest& request,
                         const fs::path& to) {
  HuggingFaceExport options;
  options.is_fp8 = exported.is_fp8;
  options.dtype = request.type == checkpoints::ExportType::kF32 ? "float32" : "bfloat16";
  if (!source_text.empty()) {
    ASSIGN_OR_RETURN(const std::string edited,
                     EditHuggingFaceConfig(source_text, from.config.model(), options,
                                           request.type == checkpoints::ExportType::kSource));
    const auto parsed = ParseHuggingFaceConfig(edited, request.ignore);
    if (parsed.ok() && SameModel(parsed->model, from.config.model())) {
      return WriteText(to / "config.json", edited);
    }
  }
  if (request.print && !side.empty()) {
    request.print("the model's configuration is not the source's any more: config.json is new");
  }
  if (const auto tokenizer = data::LoadTokenizer(TokenizerIn(to.string())); tokenizer.ok()) {
    options.bos_id = (*tokenizer)->bos_id();
    options.eos_id = (*tokenizer)->eos_id();
  }
  ASSIGN_OR_RETURN(const std::string text, MakeHuggingFaceConfig(from.config.model(), options));
  return WriteText(to / "config.json", text);
}

absl::Status WriteIndex(const fs::path& side, const checkpoints::Exported& exported,
                        const fs::path& to) {
  if (exported.files.size() == 1 && exported.files[0].name == checkpoints::kSingleName) {
    return absl::OkStatus();
  }
  std::error_code error;
  const fs::path name(std::string{checkpoints::kIndexName});
  if (exported.is_source_layout && fs::exists(side / name, error)) {
    fs::copy_file(side / name, to / name, error);
    if (!error) return absl::OkStatus();
  }
  return WriteText(to / name, checkpoints::IndexText(exported.files));
}

absl::Status WriteDirectory(checkpoints::FileSystem& files, const Stored& from,
                            const Stored* source, const ExportRequest& request,
                            checkpoints::Exported& exported) {
  const fs::path to = request.to + ".partial";
  const Stored* import = from.is_import() ? &from : source;
  fs::path side;
  std::string source_text;
  std::error_code error;
  if (import != nullptr) {
    side = import->run_folder() / kHuggingFaceFolder;
    if (!fs::is_directory(side, error)) side.clear();
  }
  if (!side.empty()) {
    ASSIGN_OR_RETURN(source_text, checkpoints::ReadWholeFile(files, (side / "config.json").string(),
                                                             kMostConfigBytes));
    RETURN_IF_ERROR(CopyFiles(side, to));
  } else {
    RETURN_IF_ERROR(ReleaseTokenizer(from.run_folder().string(), to.string()));
  }
  checkpoints::ExportOptions options;
  options.from = from.reader.get();
  options.source = source == nullptr ? nullptr : source->reader.get();
  options.to = to.string();
  options.tensors = MakeTensorMap(from.config.model());
  options.type = request.type;
  options.shard_bytes = request.shard_bytes;
  options.progress = request.progress;
  // Whether the family can express the model is known before gigabytes are written.
  if (source_text.empty()) RETURN_IF_ERROR(MakeHuggingFaceConfig(from.config.model(), {}).status());
  ASSIGN_OR_RETURN(exported, checkpoints::Export(files, options));
  exported.certificate.title =
      absl::StrCat("export of ", from.reader->generation_dir(), " to ", request.to);
  RETURN_IF_ERROR(WriteIndex(side, exported, to));
  RETURN_IF_ERROR(WriteText(to / "certificate.json", exported.certificate.ToJson()));
  RETURN_IF_ERROR(WriteText(to / "certificate.txt", exported.certificate.ToText()));
  return WriteConfig(from, side, source_text, exported, request, to);
}

}  // namespace

absl::StatusOr<checkpoints::Certificate> ExportHuggingFace(const ExportRequest& request) {
  std::error_code error;
  if (fs::exists(request.to, error) && !fs::is_empty(request.to, error)) {
    return absl::AlreadyExistsError(
        absl::StrCat(request.to, ": found files in it, wanted a new or an empty directory"));
  }
  const auto files = checkpoints::CreatePosixFileSystem();
  ASSIGN_OR_RETURN(const Stored from, OpenStored(*files, request.from, request, request.weights));
  ASSIGN_OR_RETURN(const auto source, FindSource(*files, from, request));
  const fs::path partial = request.to + ".partial";
  fs::remove_all(partial, error);
  fs::create_directories(partial, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrCat(partial.string(), ": cannot be made: ", error.message()));
  }
  checkpoints::Exported exported;
  const absl::Status written = WriteDirectory(*files, from, source.get(), request, exported);
  if (!written.ok()) {
    fs::remove_all(partial, error);
    return written;
  }
  fs::remove(request.to, error);  // an empty one
  fs::rename(partial, request.to, error);
  if (error) {
    return absl::UnavailableError(absl::StrCat(partial.string(), ": cannot be renamed to ",
                                               request.to, ": ", error.message()));
  }
  return exported.certificate;
}

}  // namespace sluice::trainer
