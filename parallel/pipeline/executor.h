// Runs one rank's part of a schedule.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "parallel/comm/communicator.h"
#include "parallel/pipeline/stage.h"
#include "parallel/schedule/schedule.h"

namespace sluice::parallel {

struct ExecuteOptions {
  bool forward_only = false;  // evaluation: backward actions and their messages are left
                              // out, of an overlapped pair the forward is run
  // Called once before this rank's first backward action (not when forward_only). With a schedule
  // whose forwards all come first on every rank (gpipe) all ranks can communicate in it.
  std::function<absl::Status()> before_first_backward = nullptr;
  std::vector<Action>* trace = nullptr;  // what really ran, appended in order
};

// Runs schedule.actions[pipe.rank()] of a schedule that Validate accepts. `stages` has one entry a
// stage of the schedule: null where it lives on another rank. Between two stages on the same rank
// the activation is copied. Each phase is enqueued on the stream of its role and waits for the
// phase before it by an event; a forward and a backward that overlap are two such chains, in the
// order of OverlapOrder. Messages and weight gradients are on the compute stream. Both streams are
// synchronized at the end. The first error ends it and is returned with the action's text; peers
// may then wait for ever: the caller aborts them.
absl::Status Execute(const Schedule& schedule, std::span<Stage* const> stages, Communicator& pipe,
                     kernels::DeviceContext& device, const ExecuteOptions& options = {});

}  // namespace sluice::parallel
