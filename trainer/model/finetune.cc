#include "trainer/model/finetune.h"

#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/core/status_macros.h"
#include "trainer/model/model_config.h"
#include "trainer/model/name_pattern.h"
#include "trainer/model/named_tensors.h"

namespace sluice::trainer {
namespace {

#define SLUICE_DEFAULT(message, field, value) \
  if (!(message).has_##field()) (message).set_##field(value)

// Every projection of attention, dense layers and experts, routed and shared.
constexpr char kAllProjections[] = "(self_attn|mlp)\\.(.*\\.)?[a-z_]+_proj(_with_mqa)?$";

absl::Status Wanted(absl::string_view field, absl::string_view found, absl::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": found ", found, ", wanted ", wanted));
}

absl::Status ValidateLora(const LoraConfig& lora) {
  if (lora.rank() < 1) return Wanted("finetune.lora.rank", absl::StrCat(lora.rank()), "at least 1");
  if (!(lora.alpha() > 0)) {
    return Wanted("finetune.lora.alpha", absl::StrCat(lora.alpha()), "more than 0");
  }
  if (!(lora.dropout() >= 0 && lora.dropout() < 1)) {
    return Wanted("finetune.lora.dropout", absl::StrCat(lora.dropout()), "0 <= dropout < 1");
  }
  if (lora.init() != "kaiming" && lora.init() != "normal") {
    return Wanted("finetune.lora.init", absl::StrCat("\"", lora.init(), "\""), "kaiming or normal");
  }
  return NamePattern::Create("finetune.lora.targets", lora.targets()).status();
}

absl::Status ValidateExperts(const FinetuneConfig& config, const ModelConfig& model) {
  if (config.layer_experts().empty() && config.experts_file().empty()) {
    return Wanted("finetune.layer_experts", "nothing",
                  "layers with experts, or finetune.experts_file, with finetune.mode experts");
  }
  const int layers = model.num_hidden_layers() + model.num_nextn_predict_layers();
  std::set<int> seen;
  for (const LayerExperts& entry : config.layer_experts()) {
    const std::string field = absl::StrCat("finetune.layer_experts of layer ", entry.layer());
    if (entry.layer() < 0 || entry.layer() >= layers || !IsMoe(model, entry.layer())) {
      return Wanted(field, "a layer without experts", "an MoE layer");
    }
    if (!seen.insert(entry.layer()).second) return Wanted(field, "it twice", "each layer once");
    for (int expert : entry.experts()) {
      if (expert < 0 || expert >= model.n_routed_experts()) {
        return Wanted(field, absl::StrCat("expert ", expert),
                      absl::StrCat("0 to ", model.n_routed_experts() - 1));
      }
    }
  }
  return absl::OkStatus();
}

// "model.layers.3.mlp.experts.7.up_proj.weight" -> {3, 7}, or {-1, -1}.
std::pair<int, int> LayerAndExpert(const std::string& name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '.');
  std::pair<int, int> found = {-1, -1};
  if (parts.size() < 6 || parts[1] != "layers" || parts[4] != "experts") return found;
  if (!absl::SimpleAtoi(parts[2], &found.first) || !absl::SimpleAtoi(parts[5], &found.second)) {
    return {-1, -1};
  }
  return found;
}

}  // namespace

void ResolveFinetune(FinetuneConfig& config) {
  SLUICE_DEFAULT(config, mode, "full");
  const bool full = config.mode() == "full";
  SLUICE_DEFAULT(config, train_router, full);
  SLUICE_DEFAULT(config, update_gate_bias, full);
  SLUICE_DEFAULT(config, freeze, "");
  SLUICE_DEFAULT(config, experts_file, "");
  LoraConfig& lora = *config.mutable_lora();
  SLUICE_DEFAULT(lora, rank, 16);
  SLUICE_DEFAULT(lora, alpha, 2.0 * lora.rank());
  SLUICE_DEFAULT(lora, dropout, 0.0);
  SLUICE_DEFAULT(lora, init, "kaiming");
  SLUICE_DEFAULT(lora, targets, kAllProjections);
}

absl::Status ValidateFinetune(const FinetuneConfig& config, const ModelConfig& model) {
  if (config.mode() != "full" && config.mode() != "lora" && config.mode() != "experts") {
    return Wanted("finetune.mode", absl::StrCat("\"", config.mode(), "\""),
                  "full, lora or experts");
  }
  RETURN_IF_ERROR(NamePattern::Create("finetune.freeze", config.freeze()).status());
  if (config.mode() == "lora") return ValidateLora(config.lora());
  if (config.mode() == "experts") return ValidateExperts(config, model);
  return absl::OkStatus();
}

absl::StatusOr<std::function<bool(const std::string&)>> MakeIsTrained(
    const FinetuneConfig& config) {
  ASSIGN_OR_RETURN(const NamePattern freeze,
                   NamePattern::Create("finetune.freeze", config.freeze()));
  std::set<std::pair<int, int>> experts;
  for (const LayerExperts& entry : config.layer_experts()) {
    for (int expert : entry.experts()) experts.insert({entry.layer(), expert});
  }
  const bool full = config.mode() != "lora" && config.mode() != "experts";
  const bool router = config.train_router() || !config.has_train_router();
  const bool by_expert = config.mode() == "experts";
  return [=](const std::string& name) {
    if (IsAdapterName(name)) return true;
    if (freeze.IsFoundIn(name)) return false;
    if (absl::EndsWith(name, ".mlp.gate.weight")) return router;
    const std::pair<int, int> place = LayerAndExpert(name);
    if (place.second >= 0) {
      const auto other =
          absl::StrReplaceAll(name, {{"gate_proj", "up_proj"}, {"up_proj", "gate_proj"}});
      if (freeze.IsFoundIn(other)) return false;
      if (by_expert) return experts.count(place) > 0;
    }
    return full;
  };
}

absl::Status CheckTrainsSomething(const FinetuneConfig& config, const ModelConfig& model) {
  if (config.mode() == "lora") {
    ASSIGN_OR_RETURN(const NamePattern targets,
                     NamePattern::Create("finetune.lora.targets", config.lora().targets()));
    std::string projection;
    for (const NamedTensor& tensor : ListTensors(model)) {
      if (tensor.kind != TensorKind::kMatrix) continue;
      projection = std::string(absl::StripSuffix(tensor.name, ".weight"));
      if (targets.IsFoundIn(projection)) return absl::OkStatus();
    }
    return Wanted("finetune.lora.targets", absl::StrCat("\"", config.lora().targets(), "\""),
                  absl::StrCat("a pattern that is found in a projection's name, as ", projection));
  }
  if (config.mode() == "full" && config.freeze().empty()) return absl::OkStatus();
  if (config.mode() == "experts") {
    int experts = 0;
    for (const LayerExperts& entry : config.layer_experts()) experts += entry.experts_size();
    if (experts == 0 && !config.train_router()) {
      return Wanted("finetune.layer_experts", "no expert in any layer", "one or more to train");
    }
  }
  ASSIGN_OR_RETURN(const auto is_trained, MakeIsTrained(config));
  for (const NamedTensor& tensor : ListTensors(model)) {
    const bool is_parameter =
        tensor.kind == TensorKind::kMatrix || tensor.kind == TensorKind::kOther;
    if (is_parameter && is_trained(tensor.name)) return absl::OkStatus();
  }
  return Wanted(
      "finetune.freeze", absl::StrCat("\"", config.freeze(), "\""),
      absl::StrCat("a pattern that leaves a tensor to train with finetune.mode ", config.mode()));
}

bool IsAdapterName(const std::string& name) {
  return absl::StrContains(name, ".lora_A.") || absl::StrContains(name, ".lora_B.");
}

}  // namespace sluice::trainer
