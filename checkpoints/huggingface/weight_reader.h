// The weights of a checkpoint as FP32, whether a run saved them or an import did.
//
// A run saves masters, "master/<name>" in FP32. An import keeps what it found: "weight/<name>" in
// FP32, BF16 or E4M3, the last with "weight/<name>_scale_inv"; nothing is stored twice, and an
// export can give the source's bytes back.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "checkpoints/reader.h"

namespace sluice::checkpoints {

// Prefixes of tensor names in a checkpoint.
inline constexpr char kWeightPrefix[] = "weight/", kGatePrefix[] = "gate/";

class WeightReader {  // one thread
 public:
  // `reader` outlives it.
  explicit WeightReader(CheckpointReader& reader) : reader_(reader) {}

  // Elements [begin, begin + out.size()) of the weight. FP32 and BF16 exactly; FP8 as code * scale
  // rounded to FP32. NOT_FOUND, INVALID_ARGUMENT for another shape, DATA_LOSS as
  // CheckpointReader::Read.
  absl::Status Read(const std::string& name, const std::vector<int64_t>& shape, int64_t begin,
                    std::span<float> out);

 private:
  absl::Status ReadBf16(const TensorPiece& piece, std::span<float> out);
  absl::Status ReadFp8(const TensorPiece& piece, std::span<float> out);

  CheckpointReader& reader_;
  std::vector<char> buffer_;
  std::string scales_of_;  // the tensor whose scales are held
  std::vector<float> scales_;
};

}  // namespace sluice::checkpoints
