// What the planner says of the run at hand; each step line shows it beside what was measured.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/plan/plan.h"
#include "trainer/loop/run_config.pb.h"
#include "trainer/loop/train_step.h"

namespace sluice::trainer {

// The layout of a config; unset fields as `train` has them, data filling `ranks`. INVALID_ARGUMENT
// names the field.
absl::StatusOr<parallel::Layout> PlanLayout(const RunConfig& config, int ranks);
absl::StatusOr<parallel::Precision> ParsePrecision(const std::string& text);
// As compute.recompute, to which the planner knows "moe" and "everything" beside, as costs.
absl::StatusOr<parallel::RecomputeChoice> ParseRecomputeChoice(const std::string& text);

// The stages that `train` would cut for that layout: stage_layers where set, else by flops.
// `config` need not be resolved.
absl::StatusOr<std::vector<parallel::StageShare>> StageShares(RunConfig config,
                                                              const parallel::Layout& layout);

// A textproto of parallel/plan/cluster.proto. NOT_FOUND, INVALID_ARGUMENT: one sentence.
absl::StatusOr<parallel::Cluster> ReadClusterFile(const std::string& path);

struct MachineAtHand {
  double peak_flops = 0;  // of all ranks together in the precision at hand
  std::string precision;
  int ranks_on_host = 1, threads = 1;
  double memory_bytes = 0;
};
// Without a file: the measured peak, and shares of it that CPUs reach as a rule.
parallel::Cluster TypicalMachine(const MachineAtHand& machine);

struct PlannedStep {
  double seconds = 0;
  StepSeconds parts;           // of them
  parallel::MemoryUse memory;  // of one rank
};

class RunPlanner {
 public:
  // `config` is resolved. Ranks of a host share its cores, each has `threads`.
  static absl::StatusOr<RunPlanner> Create(const RunConfig& config,
                                           const parallel::Cluster& cluster, int ranks_on_host,
                                           int threads);
  // Of a step of so many sequences, and of a rank of the pipe. The same sequences are simulated
  // once. Memory is what a rehearsal of the rank takes (rehearsal.h) where ranks are on CPUs, else
  // parallel/plan's estimate.
  absl::StatusOr<PlannedStep> Plan(int64_t sequences, int pipe_rank);

 private:
  RunConfig config_;
  int threads_ = 1;
  parallel::PlanRequest request_;
  parallel::Layout layout_;
  std::vector<parallel::StageShare> stages_;
  std::map<int64_t, PlannedStep> known_;
};

}  // namespace sluice::trainer
