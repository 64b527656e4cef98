// What the generators share. Internal to this folder.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "parallel/schedule/schedule.h"

namespace sluice::parallel::internal {

// INVALID_ARGUMENT when a number is below 1 or does not fit an Action.
absl::Status CheckShape(const PipelineShape& shape);
// The same, and that a rank holds one stage only.
absl::Status CheckOneChunk(absl::string_view name, const PipelineShape& shape);

// One replica, stage s on rank s mod P, no actions yet. `shape` has been checked.
Schedule NewSchedule(absl::string_view name, const PipelineShape& shape);

inline Action MakeAction(ActionKind kind, int stage, int microbatch) {
  return {kind, static_cast<int16_t>(stage), static_cast<int16_t>(microbatch)};
}

}  // namespace sluice::parallel::internal
