#include "trainer/loop/fp8_report.h"

#include <algorithm>

#include "kernels/core/status_macros.h"

namespace sluice::trainer {

absl::StatusOr<Fp8Health> MergeHealth(parallel::Communicator& world, const Fp8Health& mine) {
  ASSIGN_OR_RETURN(const std::vector<std::string> all, world.GatherBytes(mine.Serialize()));
  Fp8Health merged;
  for (const std::string& text : all) {
    ASSIGN_OR_RETURN(const Fp8Health one, Fp8Health::Parse(text));
    merged.Merge(one);
  }
  ASSIGN_OR_RETURN(const std::string text, world.BroadcastBytes(merged.Serialize(), 0));
  return Fp8Health::Parse(text);
}

std::vector<std::string> LayersAbove(const Fp8Health& health, double limit) {
  std::vector<std::string> names;
  for (const auto& layer : health.layers()) {
    if (limit > 0 && layer->RelativeError() > limit) names.push_back(layer->name);
  }
  return names;
}

absl::Status DemoteLayers(RankModel& model, const std::vector<std::string>& names) {
  for (const auto& stage : model.stages()) {
    for (Linear* linear : stage->linears()) {
      const std::string name = Fp8LayerName(linear->weight());
      if (std::find(names.begin(), names.end(), name) == names.end()) continue;
      RETURN_IF_ERROR(linear->Demote(model.device()));
    }
  }
  return absl::OkStatus();
}

}  // namespace sluice::trainer
