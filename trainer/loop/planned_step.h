// What the planner says of the run at hand; each step line shows it beside what was measured.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/plan/plan.h"
#include "trainer/loop/run_config.pb.h"

namespace sluice::trainer {

// The layout of a config; unset fields as `train` has them, data filling `ranks`. INVALID_ARGUMENT
// names the field.
absl::StatusOr<parallel::Layout> PlanLayout(const RunConfig& config, int ranks);
absl::StatusOr<parallel::Precision> ParsePrecision(const std::string& text);
// As compute.recompute, or "everything".
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
  parallel::MemoryUse memory;  // of one rank
};

class RunPlanner {
 public:
  // `config` is resolved. Ranks of a host share its cores.
  static absl::StatusOr<RunPlanner> Create(const RunConfig& config,
                                           const parallel::Cluster& cluster, int ranks_on_host);
  // Of a step of so many sequences, and of a rank of the pipe. The same sequences are simulated
  // once.
  absl::StatusOr<PlannedStep> Plan(int64_t sequences, int pipe_rank);

 private:
  parallel::PlanRequest request_;
  parallel::Layout layout_;
  std::vector<parallel::StageShare> stages_;
  std::map<int64_t, PlannedStep> known_;
};

}  // namespace sluice::trainer
