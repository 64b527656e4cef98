// Which named tensors a run trains.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "trainer/model/finetune.pb.h"
#include "trainer/model/model.pb.h"

namespace sluice::trainer {

// Fills unset fields.
void ResolveFinetune(FinetuneConfig& config);
// INVALID_ARGUMENT: field, found, wanted.
absl::Status ValidateFinetune(const FinetuneConfig& config, const ModelConfig& model);
// INVALID_ARGUMENT when no tensor of the model would be trained. Both are resolved.
absl::Status CheckTrainsSomething(const FinetuneConfig& config, const ModelConfig& model);

// Whether a tensor is trained, by Hugging Face's name. The gate and up projection of an expert are
// one weight: if finetune.freeze finds one of them, both are frozen. `config` is resolved and
// validated.
absl::StatusOr<std::function<bool(const std::string& name)>> MakeIsTrained(
    const FinetuneConfig& config);

// The weights of an adapter: names with .lora_A. or .lora_B. in them, as PEFT's.
bool IsAdapterName(const std::string& name);

}  // namespace sluice::trainer
