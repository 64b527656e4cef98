// What an export writes, decided before the first byte: the type of every tensor, where its bytes
// come from, and which file it goes to.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoints/huggingface/export.h"

namespace sluice::checkpoints {

struct ExportedTensor {
  const MappedTensor* mapped = nullptr;  // of ExportOptions.tensors
  bool is_scale = false;
  bool is_merged = false;  // the checkpoint has a LoRA adapter for it
  std::string stored;      // name in the checkpoint
  std::string original;    // name on disk of what a copy is a copy of
  // Whose tensor `stored` is taken byte for byte; null: computed from FP32 values.
  CheckpointReader* bytes_of = nullptr;
};

struct ExportPlan {
  std::map<std::string, ExportedTensor> targets;  // by name on disk
  std::vector<FileLayout> files;
  bool is_source_layout = false;
};

// Errors as Export. `options` outlives the plan. Reads values only to see whether FP8 tensors are
// untouched since the import.
absl::StatusOr<ExportPlan> PlanExport(const ExportOptions& options);

}  // namespace sluice::checkpoints
