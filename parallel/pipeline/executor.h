// Runs one rank's part of a schedule.
#pragma once

#include <span>
#include <vector>

#include "absl/status/status.h"
#include "parallel/comm/communicator.h"
#include "parallel/pipeline/stage.h"
#include "parallel/schedule/schedule.h"

namespace sluice::parallel {

struct ExecuteOptions {
  bool forward_only = false;  // evaluation: backward actions and their messages are left out
  std::vector<Action>* trace = nullptr;  // what really ran, appended in order
};

// Runs schedule.actions[pipe.rank()]. `stages` has one entry a stage of the schedule: null where it
// lives on another rank. Between two stages on the same rank the activation is copied. The first
// error ends it and is returned with the action's text.
absl::Status Execute(const Schedule& schedule, std::span<Stage* const> stages, Communicator& pipe,
                     kernels::DeviceContext& device, const ExecuteOptions& options = {});

}  // namespace sluice::parallel
