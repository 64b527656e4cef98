// From a Hugging Face directory to a checkpoint generation, one tensor at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoints/file_system.h"
#include "checkpoints/huggingface/certificate.h"
#include "checkpoints/huggingface/name_map.h"
#include "checkpoints/manifest.pb.h"

namespace sluice::checkpoints {

// Bytes done of all, in both passes together.
using ProgressFunction = std::function<void(int64_t done, int64_t total)>;

struct ImportOptions {
  std::string from;                   // the directory
  std::string to;                     // of generations: the new one becomes step 0 in it
  std::vector<MappedTensor> tensors;  // all that the model has
  // Tensors whose names begin so are accounted for and not taken.
  std::vector<std::string> leave_out;
  RunMetadata metadata;                          // of the new generation
  std::function<absl::Status()> before_writing;  // between the passes; may be null
  ProgressFunction progress;                     // may be null
  int64_t buffer_bytes = 8 << 20;                // of the tensor at hand, held at once
};

struct Imported {
  std::string generation;  // its folder
  Certificate certificate;
};

// Two passes over the source. The first reads everything and writes nothing: it refuses a tensor
// that is missing, unknown (a renamed one is both, and both names are given), of another shape or
// type, FP8 without scales, not finite, or a copy that differs from its original. The second writes
// and checks that every tensor still has the first pass's checksum. INVALID_ARGUMENT names tensor,
// found and wanted; DATA_LOSS as SourceModel::Open, or when the source changed in between;
// RESOURCE_EXHAUSTED before the second pass when the disk is too small. After an error `to` has no
// new generation.
absl::StatusOr<Imported> Import(FileSystem& files, const ImportOptions& options);

}  // namespace sluice::checkpoints
