// What `sluice inspect` shows of checkpoints, as values and as text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoints/file_system.h"
#include "checkpoints/reader.h"

namespace sluice::checkpoints {

// The generation a user means by `path`: a generation's directory itself, or the newest good one of
// a directory of generations or of a run's folder (which has them in "checkpoints"). Errors and log
// as FindNewestGood; NOT_FOUND says where it looked.
absl::StatusOr<std::string> ResolveCheckpoint(FileSystem& files, const std::string& path,
                                              const LogFunction& log);

// A table: step, when, state (good, unfinished or what is wrong), path. Good here means manifest
// and sizes; Verify says more.
std::string GenerationsText(std::span<const Generation> generations);

// A head with step, time, sizes, mesh and state, then a line a tensor: dtype, shape, bytes, pieces.
std::string ContentsText(const CheckpointReader& reader);

struct TensorDifference {
  enum class Kind : uint8_t { kOnlyInA, kOnlyInB, kShapeOrType, kValues };
  std::string tensor;
  Kind kind = Kind::kValues;
  std::string a, b;  // kShapeOrType: "f32 [2, 3]"; kValues: the first differing element's values
  // kValues only:
  int64_t first_element = 0;  // row-major
  int64_t num_different = 0;  // bit patterns that differ, so -0 and 0 do, equal NaNs do not
  double max_difference = 0;  // largest |a - b|; NaN if one of the elements is
};

struct CheckpointDifference {
  int64_t step_a = 0, step_b = 0;
  int64_t num_equal_tensors = 0;
  std::vector<TensorDifference> tensors;  // ascending by name
  std::vector<std::string> metadata;      // one sentence for each entry of state that differs
  // Whether all that digests cover is equal: tensors, step, state.
  bool is_equal() const { return step_a == step_b && tensors.empty() && metadata.empty(); }
  std::string ToString() const;
};

// Compares what digests cover, through a buffer of a few MiB; errors as CheckpointReader::Read.
absl::StatusOr<CheckpointDifference> Diff(CheckpointReader& a, CheckpointReader& b);

}  // namespace sluice::checkpoints
