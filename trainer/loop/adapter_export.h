// LoRA adapters as PEFT reads them: adapter_model.safetensors and adapter_config.json.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "checkpoints/file_system.h"

namespace sluice::trainer {

struct AdapterExport {
  int64_t num_modules = 0, num_elements = 0;
  int64_t num_left_out = 0;  // modules of multi-token prediction, which transformers has not
};

// Writes the adapters of a generation to `dir`, which is made: FP32, one A and one B a module (one
// an expert), names with PEFT's "base_model.model." before Hugging Face's. `base` becomes
// base_model_name_or_path. FAILED_PRECONDITION: the checkpoint has no adapters. Else as
// CheckpointReader and the file system.
absl::StatusOr<AdapterExport> ExportAdapter(checkpoints::FileSystem& files,
                                            const std::string& generation_dir,
                                            const std::string& base, const std::string& dir);

}  // namespace sluice::trainer
