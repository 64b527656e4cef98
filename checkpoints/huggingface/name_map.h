// What a tensor is called in a Hugging Face directory and in our checkpoints.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace sluice::checkpoints {

struct MappedTensor {
  std::string disk;            // "model.layers.3.mlp.gate.weight"
  std::string name;            // in checkpoints, after "master/", "weight/" or "gate/"
  std::vector<int64_t> shape;  // on both sides
  enum class Role : uint8_t {
    kWeight,
    kGateBias,  // "gate/<name>", always FP32 in checkpoints
    // On disk only: must be equal, bit for bit, to the tensor `name`. May be missing.
    kCopy,
  } role = Role::kWeight;
  bool may_be_fp8 = false;  // [rows, columns] that the block format quantises
};

// Our names are those of DeepSeek's, Qwen3's and OLMoE's files but for the gate's bias; Mixtral
// calls experts and gate otherwise.
std::string DiskName(absl::string_view model_type, absl::string_view name);

inline std::string ScaleName(absl::string_view weight) {
  return std::string(weight) + "_scale_inv";
}

}  // namespace sluice::checkpoints
