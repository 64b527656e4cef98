// Hugging Face directories and run folders: what `sluice import` and `sluice export` do.
#pragma once

#include <functional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoints/huggingface/certificate.h"
#include "checkpoints/huggingface/export.h"
#include "checkpoints/huggingface/import.h"
#include "trainer/loop/run_config.pb.h"

namespace sluice::trainer {

// Where an import keeps the source's small files and the certificate, inside the run folder.
inline constexpr char kHuggingFaceFolder[] = "huggingface";

struct ImportRequest {
  std::string from;              // with config.json and safetensors
  std::string to;                // becomes a run folder; must hold no checkpoint
  std::set<std::string> ignore;  // keys of config.json
  bool without_mtp = false;      // leaves the multi-token prediction layers out
  // Changes the run's configuration before it is resolved; may be null.
  std::function<absl::Status(RunConfig&)> edit;
  std::function<void(const std::string&)> print;  // lines for people, warnings; may be null
  checkpoints::ProgressFunction progress;         // may be null
};

struct ImportResult {
  std::string generation;
  checkpoints::Certificate certificate;
  std::vector<std::string> config_keys;  // what became of each key of config.json
};

// Makes TO/checkpoints/step-0000000000-<id> (weights only: for run.init_from, eval, score and
// generate, on any mesh), TO/tokenizer.json, TO/config.textproto, and TO/huggingface with all other
// files of the source and certificate.json and .txt. INVALID_ARGUMENT, naming key or tensor, as
// ParseHuggingFaceConfig and checkpoints::Import; ALREADY_EXISTS when TO holds a checkpoint.
absl::StatusOr<ImportResult> ImportHuggingFace(const ImportRequest& request);

struct ExportRequest {
  std::string from;    // a generation or a run folder
  std::string to;      // must not exist, or be empty
  std::string source;  // the import that training started from; empty: through run.init_from
  checkpoints::WeightSet weights = checkpoints::WeightSet::kMasters;
  checkpoints::ExportType type = checkpoints::ExportType::kSource;
  int64_t shard_bytes = 5'000'000'000;
  std::set<std::string> ignore;                   // keys of the source's config.json
  std::function<void(const std::string&)> print;  // as in ImportRequest
  checkpoints::ProgressFunction progress;
};

// Makes TO a complete Hugging Face directory with certificate.json and .txt; it appears by one
// rename. An import's export has the same files with the same bytes. INVALID_ARGUMENT names a field
// that the family's config.json cannot express, or a tensor that is not finite.
absl::StatusOr<checkpoints::Certificate> ExportHuggingFace(const ExportRequest& request);

}  // namespace sluice::trainer
