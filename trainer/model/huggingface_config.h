// Hugging Face's config.json and our ModelConfig, both ways, and which tensor is called what on
// disk. Families: deepseek_v3 (R1, Moonlight), deepseek_v2 (V2-Lite), qwen3_moe, mixtral, olmoe.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoints/huggingface/name_map.h"
#include "trainer/model/model.pb.h"

namespace sluice::trainer {

struct HuggingFaceConfig {
  ModelConfig model;    // resolved
  std::string dtype;    // "bfloat16", ...: torch_dtype, empty if it is not there
  bool is_fp8 = false;  // quantization_config: E4M3 with a scale for each 128 x 128 block
  // Every key of the file: what became of it ("vocab_size: used", "use_cache: irrelevant, ...").
  std::vector<std::string> keys;
};

// Reads keys in today's form (rope_parameters, dtype) and in the older one (rope_theta,
// rope_scaling, torch_dtype). INVALID_ARGUMENT names the key: missing, of another type, asking for
// what this program does not do, or unknown - a key that changes nothing for the user's model can
// be put in `ignore`.
absl::StatusOr<HuggingFaceConfig> ParseHuggingFaceConfig(absl::string_view json,
                                                         const std::set<std::string>& ignore = {});

struct HuggingFaceExport {
  std::string dtype = "bfloat16";  // or float32: what most tensors are stored in
  bool is_fp8 = false;             // adds quantization_config
  int bos_id = -1, eos_id = -1;    // of the tokenizer, -1: none
};
// The config.json of a model of any shape that its family can express; INVALID_ARGUMENT names the
// first field that it cannot. `config` is resolved.
absl::StatusOr<std::string> MakeHuggingFaceConfig(const ModelConfig& config,
                                                  const HuggingFaceExport& options);

// The source's own config.json with what an export changed: quantization_config there or not, the
// number of MTP layers, and, where `keep_dtype` is false, torch_dtype and the modules that are not
// in FP8. Unchanged text comes back as it is.
absl::StatusOr<std::string> EditHuggingFaceConfig(absl::string_view json, const ModelConfig& config,
                                                  const HuggingFaceExport& options,
                                                  bool keep_dtype);

// Whether both compute the same: fields that only training reads may differ.
bool SameModel(const ModelConfig& a, const ModelConfig& b);

// Every tensor of the model with its name on disk and in checkpoints. `config` is resolved.
std::vector<checkpoints::MappedTensor> MakeTensorMap(const ModelConfig& config);

}  // namespace sluice::trainer
