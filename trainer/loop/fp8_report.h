// What becomes of a step's FP8 health: one table for all ranks, and layers that leave FP8.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "trainer/loop/rank_model.h"
#include "trainer/model/fp8_health.h"

namespace sluice::trainer {

// The health of all ranks together, on every rank. Collective.
absl::StatusOr<Fp8Health> MergeHealth(parallel::Communicator& world, const Fp8Health& mine);

// Names of the layers whose relative error is above `limit` (0: none).
std::vector<std::string> LayersAbove(const Fp8Health& health, double limit);

// From here on these layers compute in BF16, on whatever ranks they live. Between steps.
absl::Status DemoteLayers(RankModel& model, const std::vector<std::string>& names);

}  // namespace sluice::trainer
