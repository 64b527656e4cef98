// From what the user wrote to what the planner reads: clusters, models, layouts, published runs.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launch/presets.h"
#include "parallel/plan/plan.h"
#include "parallel/plan/published.pb.h"
#include "trainer/loop/run_config.pb.h"

namespace sluice::launch {

// A name among Clusters(), or a file; `nodes` above 0 replaces the file's. INVALID_ARGUMENT,
// NOT_FOUND: one sentence that lists the known names.
absl::StatusOr<parallel::Cluster> LoadCluster(const std::string& name_or_file, int nodes);

// The model of a config, resolved and valid; layout and rest are not looked at.
absl::StatusOr<parallel::ModelWork> LoadModelWork(const trainer::RunConfig& config);

struct PublishedCheck {
  parallel::PublishedRun run;
  std::string not_checkable;  // why, else empty
  parallel::PlanEntry predicted;
  double published_seconds = 0;  // of a step
  double error() const { return predicted.step_seconds / published_seconds - 1; }
  // Once more with one factor on all predicted times, the geometric mean of published / predicted
  // of all other checkable runs; 0 where there is none.
  double left_out_seconds = 0;
  // Device hours for 1e12 tokens; 0 where the run has no tokens.
  double hours_per_trillion() const {
    return run.tokens() > 0 ? predicted.device_hours / run.tokens() * 1e12 : 0;
  }
  double left_out_error() const { return left_out_seconds / published_seconds - 1; }
};

// `runs` are textprotos, such as PublishedRuns(). `expert_cv` is the assumption for runs with real
// routing. INVALID_ARGUMENT: file, field, found, wanted.
absl::StatusOr<std::vector<PublishedCheck>> CheckPublishedRuns(const std::vector<Preset>& runs,
                                                               double expert_cv);

// {"step": 7, "layer": 3, "rows": [12, 0, ...]} a line: rows each expert of a layer got in a step.
absl::StatusOr<parallel::RouteTrace> LoadRoutes(const std::string& path);

}  // namespace sluice::launch
