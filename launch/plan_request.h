// From the flags and the config of `sluice plan` to the planner's question.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launch/load_config.h"
#include "parallel/plan/plan.h"
#include "trainer/loop/run_config.pb.h"

namespace sluice::launch {

struct PlanFlags {
  std::string cluster, routes;
  std::string zero;  // stages, as in "1,2,3"
  int64_t nodes = 0;
  double tokens = 0, budget = 0, deadline = 0, expert_cv = 0.2;
};

// What --set says of the mesh, the schedule, the microbatch, the precision or the recompute is kept
// by the search; what a preset or a file says of them is not. INVALID_ARGUMENT, NOT_FOUND: one
// sentence that names flag or field, what was found and what is wanted.
absl::StatusOr<parallel::PlanRequest> MakePlanRequest(const PlanFlags& flags,
                                                      const ConfigFlags& config_flags,
                                                      const trainer::RunConfig& config);

}  // namespace sluice::launch
