#include "trainer/loop/adapter_export.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "checkpoints/huggingface/name_map.h"
#include "checkpoints/reader.h"
#include "checkpoints/safetensors.h"
#include "google/protobuf/text_format.h"
#include "kernels/core/status_macros.h"
#include "nlohmann/json.hpp"
#include "trainer/loop/run_config.pb.h"
#include "trainer/model/finetune.h"

namespace sluice::trainer {
namespace {

using checkpoints::TensorRecord;
using kernels::DType;

constexpr int64_t kChunkElements = 1 << 20;
constexpr char kMaster[] = "master/";

int LayerOf(absl::string_view name) {
  int layer = -1;
  if (!absl::ConsumePrefix(&name, "model.layers.")) return -1;
  return absl::SimpleAtoi(name.substr(0, name.find('.')), &layer) ? layer : -1;
}

// "model.layers.0.mlp.up_proj.lora_A.weight" -> "model.layers.0.mlp.up_proj".
std::string ModuleOf(absl::string_view adapter) {
  return std::string(adapter.substr(0, adapter.find(".lora_")));
}

std::string LastPart(absl::string_view module) {
  return std::string(module.substr(module.rfind('.') + 1));
}

// "model.layers.0.mlp.gate" under the name that the family's files have.
std::string ModuleOnDisk(const ModelConfig& model, absl::string_view module) {
  return std::string(absl::StripSuffix(
      checkpoints::DiskName(model.model_type(), absl::StrCat(module, ".weight")), ".weight"));
}

// On disk, as all names below: by their last words where all modules of those words have adapters,
// else one by one.
std::vector<std::string> TargetModules(const checkpoints::CheckpointReader& reader,
                                       const std::set<std::string>& adapted,
                                       const ModelConfig& model) {
  std::set<std::string> words;
  for (const std::string& module : adapted) words.insert(LastPart(module));
  for (const TensorRecord& tensor : reader.tensors()) {
    absl::string_view name = tensor.name();
    if (!absl::ConsumePrefix(&name, "weight/") || !absl::ConsumeSuffix(&name, ".weight")) continue;
    if (LayerOf(name) >= model.num_hidden_layers()) continue;
    const std::string module = ModuleOnDisk(model, name);
    if (words.count(LastPart(module)) > 0 && adapted.count(module) == 0) {
      return {adapted.begin(), adapted.end()};
    }
  }
  return {words.begin(), words.end()};
}

absl::Status WriteConfig(const LoraConfig& lora, const std::vector<std::string>& targets,
                         const std::string& base, const std::string& path) {
  nlohmann::ordered_json config;
  config["peft_type"] = "LORA";
  config["task_type"] = "CAUSAL_LM";
  config["base_model_name_or_path"] = base;
  config["r"] = lora.rank();
  config["lora_alpha"] = lora.alpha();
  config["lora_dropout"] = lora.dropout();
  config["target_modules"] = targets;
  config["bias"] = "none";
  config["fan_in_fan_out"] = false;
  config["inference_mode"] = true;
  std::ofstream file(path, std::ios::trunc);
  file << config.dump(2) << "\n";
  file.close();
  if (file) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(path, ": cannot be written"));
}

absl::Status TrainedBeside(const std::string& generation_dir, absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(
      generation_dir, ": found ", what,
      " trained beside the adapters, which cannot hold it; wanted a run without "
      "(finetune.train_router and finetune.update_gate_bias false), or sluice export"));
}

// Of layers that transformers has.
bool HasAdapters(const checkpoints::CheckpointReader& reader, const ModelConfig& model) {
  for (const TensorRecord& tensor : reader.tensors()) {
    absl::string_view name = tensor.name();
    if (absl::ConsumePrefix(&name, kMaster) && IsAdapterName(std::string(name)) &&
        LayerOf(name) < model.num_hidden_layers()) {
      return true;
    }
  }
  return false;
}

absl::Status CopyTensors(checkpoints::CheckpointReader& reader,
                         const std::vector<const TensorRecord*>& tensors,
                         checkpoints::SafetensorsWriter& writer) {
  std::vector<float> chunk;
  for (const TensorRecord* tensor : tensors) {
    const std::vector<int64_t> shape(tensor->shape().begin(), tensor->shape().end());
    const int64_t count = shape[0] * shape[1];
    for (int64_t begin = 0; begin < count; begin += kChunkElements) {
      const int64_t end = std::min(count, begin + kChunkElements);
      chunk.resize(end - begin);
      RETURN_IF_ERROR(reader.Read({tensor->name(), DType::kF32, shape, begin, end}, chunk.data()));
      RETURN_IF_ERROR(writer.Append(chunk.data(), (end - begin) * 4));
    }
  }
  return writer.Finish();
}

}  // namespace

absl::StatusOr<AdapterExport> ExportAdapter(checkpoints::FileSystem& files,
                                            const std::string& generation_dir,
                                            const std::string& base, const std::string& dir) {
  ASSIGN_OR_RETURN(const auto reader, checkpoints::CheckpointReader::Open(files, generation_dir));
  RunConfig config;
  if (!google::protobuf::TextFormat::ParseFromString(reader->metadata().config_textproto(),
                                                     &config)) {
    return absl::DataLossError(absl::StrCat(generation_dir, ": its configuration is not readable"));
  }
  if (!HasAdapters(*reader, config.model())) {
    return absl::FailedPreconditionError(absl::StrCat(
        generation_dir, ": found no LoRA adapters, wanted a run with finetune.mode lora"));
  }
  if (config.finetune().update_gate_bias() && config.model().topk_method() == "noaux_tc" &&
      config.train().bias_update_speed() > 0) {
    return TrainedBeside(generation_dir, "the router's selection bias");
  }
  AdapterExport done;
  std::set<std::string> modules;
  std::vector<const TensorRecord*> tensors;
  std::vector<checkpoints::SafetensorsEntry> entries;
  for (const TensorRecord& tensor : reader->tensors()) {
    absl::string_view name = tensor.name();
    if (!absl::ConsumePrefix(&name, kMaster)) continue;
    if (!IsAdapterName(std::string(name))) return TrainedBeside(generation_dir, name);
    if (LayerOf(name) >= config.model().num_hidden_layers()) {
      done.num_left_out += absl::StrContains(name, ".lora_A.") ? 1 : 0;
      continue;
    }
    const std::string disk = checkpoints::DiskName(config.model().model_type(), name);
    modules.insert(ModuleOf(disk));
    tensors.push_back(&tensor);
    entries.push_back({.name = absl::StrCat("base_model.model.", disk),
                       .dtype = DType::kF32,
                       .shape = {tensor.shape().begin(), tensor.shape().end()}});
    done.num_elements += tensor.shape(0) * tensor.shape(1);
  }
  done.num_modules = static_cast<int64_t>(modules.size());
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) return absl::UnavailableError(absl::StrCat(dir, ": ", error.message()));
  ASSIGN_OR_RETURN(const auto writer,
                   checkpoints::SafetensorsWriter::Create(files, dir + "/adapter_model.safetensors",
                                                          entries, {{"format", "pt"}}));
  RETURN_IF_ERROR(CopyTensors(*reader, tensors, *writer));
  RETURN_IF_ERROR(WriteConfig(config.finetune().lora(),
                              TargetModules(*reader, modules, config.model()), base,
                              dir + "/adapter_config.json"));
  return done;
}

}  // namespace sluice::trainer
