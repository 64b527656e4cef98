// Which layers each stage of the pipeline holds.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/schedule/schedule.h"
#include "trainer/loop/run_config.pb.h"
#include "trainer/model/model_config.h"

namespace sluice::trainer {

// Of a resolved config: stage_layers, or SplitLayers where it is unset. INVALID_ARGUMENT names the
// field.
absl::StatusOr<std::vector<StageSpec>> StageMap(const RunConfig& config);

// "embed+0-2", "3-5+head".
std::string ToText(const StageSpec& spec);
// One line a stage: its ranks of the pipe, what it holds, its share of a forward's floating-point
// operations; then how much slower the slowest rank is than the mean.
std::string StageTable(const RunConfig& config, const std::vector<StageSpec>& stages,
                       const parallel::Schedule& schedule);

}  // namespace sluice::trainer
