// What a run has saved, read back.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoints/reader.h"
#include "gtest/gtest.h"

namespace sluice {

inline std::string NewestCheckpointOf(const std::string& run_dir) {
  std::string newest;
  for (const auto& entry : std::filesystem::directory_iterator(run_dir + "/checkpoints")) {
    newest = std::max(newest, entry.path().string());
  }
  return newest;
}

inline std::vector<float> ReadWhole(checkpoints::CheckpointReader& reader,
                                    const checkpoints::TensorRecord& record) {
  const checkpoints::TensorPiece piece = checkpoints::WholeTensor(
      record.name(), kernels::DType::kF32, {record.shape().begin(), record.shape().end()});
  std::vector<float> values(piece.num_elements());
  const absl::Status status = reader.Read(piece, values.data());
  EXPECT_TRUE(status.ok()) << status;
  return values;
}

}  // namespace sluice
