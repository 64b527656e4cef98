// From a checkpoint generation to the safetensors of a Hugging Face directory, one tensor at a
// time. LoRA adapters that the checkpoint has are merged: W + scale * B A.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoints/file_system.h"
#include "checkpoints/huggingface/certificate.h"
#include "checkpoints/huggingface/import.h"
#include "checkpoints/huggingface/layout.h"
#include "checkpoints/huggingface/name_map.h"
#include "checkpoints/reader.h"

namespace sluice::checkpoints {

enum class ExportType : uint8_t {
  kSource,  // what the import found of each tensor; BF16 where nothing was imported
  kF32,
  kBf16,
  kFp8,  // matrices as E4M3 with scales, the rest BF16
};       // the gate's bias is FP32 in all but kSource

struct ExportOptions {
  CheckpointReader* from = nullptr;
  // The import that training started from, or null. A tensor whose values are still the import's is
  // written with the import's bytes.
  CheckpointReader* source = nullptr;
  std::string to;                     // an existing directory, for files of safetensors
  std::vector<MappedTensor> tensors;  // all that the model has
  ExportType type = ExportType::kSource;
  int64_t shard_bytes = 5'000'000'000;  // a file is closed when the next tensor would pass it
  ProgressFunction progress;            // may be null
};

struct Exported {
  Certificate certificate;
  std::vector<FileLayout> files;
  bool is_fp8 = false;            // some tensor is E4M3
  bool is_source_layout = false;  // the same files, tensors and types as the import found
};

// Files are cut as in the source where the names are the same, else by shard_bytes in the order of
// `tensors`. INVALID_ARGUMENT names a tensor with a value that is not finite; NOT_FOUND one that
// the checkpoint lacks; DATA_LOSS as CheckpointReader::Read.
absl::StatusOr<Exported> Export(FileSystem& files, const ExportOptions& options);

}  // namespace sluice::checkpoints
