// Defaults, checks and arithmetic of a ModelConfig.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "trainer/model/model.pb.h"

namespace sluice::trainer {

// Fills unset fields. Fields without a sensible default (vocab_size, hidden_size, ...) stay unset
// for Validate to name.
void ResolveModel(ModelConfig& config);
// INVALID_ARGUMENT: field, found, wanted.
absl::Status ValidateModel(const ModelConfig& config);

// A run of consecutive layers on one rank, with what stands before and after it.
struct StageSpec {
  int first_layer = 0, num_layers = 0;
  bool has_embedding = false, has_head = false;  // head: final norm, output projection, MTP modules
};
// kFolded: stages s and S - 1 - s share a rank (DualPipe, DualPipeV).
enum class StagePlacement : uint8_t { kAlone, kFolded };
// Cuts the layers into stages of nearly equal cost (floating-point operations of a forward): the
// slowest stage is as fast as it can be; where they are folded the slowest rank is, and stages
// differ little. INVALID_ARGUMENT when there are more stages than layers.
absl::StatusOr<std::vector<StageSpec>> SplitLayers(
    const ModelConfig& config, int num_stages, int64_t sequence_length,
    StagePlacement placement = StagePlacement::kAlone);

inline bool IsMoe(const ModelConfig& config, int layer) {
  return config.n_routed_experts() > 0 && layer >= config.first_k_dense_replace();
}

// Floating-point operations of one token's forward through matrix products, attention counted
// causally.
struct FlopsPerToken {
  double attention = 0, dense_mlp = 0, moe = 0;  // of one layer
  double head = 0, mtp = 0;                      // mtp: all depths with their share of the head
  double total = 0;                              // of the whole model
};
FlopsPerToken ForwardFlops(const ModelConfig& config, int64_t sequence_length);
// Of a stage, with the head's where it has it.
double StageFlops(const ModelConfig& config, const StageSpec& stage, const FlopsPerToken& flops);

}  // namespace sluice::trainer
