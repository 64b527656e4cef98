// Which layouts of a model fit a cluster, how fast they are and what they cost.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/plan/cluster.h"
#include "parallel/plan/layout.h"
#include "parallel/plan/model_work.h"
#include "parallel/schedule/schedule.h"
#include "parallel/sim/imbalance.h"

namespace sluice::parallel {

// Bytes of one rank by kind; the kinds are those of the trainer's memory table.
struct MemoryUse {
  double parameters = 0, gradients = 0, optimizer = 0;
  double activations = 0, communication = 0, scratch = 0;
  // The largest kind's name.
  std::string LargestKind() const;
  // "parameters 9.8, gradients 13.1, ..." in GB, largest first.
  std::string ToString() const;
  double total() const {
    return parameters + gradients + optimizer + activations + communication + scratch;
  }
};

struct PlanRequest {
  ModelWork model;
  Cluster cluster;
  double tokens = 0;                     // to train on; 0: no days, hours or money
  int global_batch = 0;                  // sequences a step
  double max_dollars = 0, max_days = 0;  // 0: no limit
  // Loads of experts: from a trace if there is one, else lognormal with this coefficient of
  // variation, within one microbatch of one expert group.
  double expert_cv = 0;
  RouteTrace routes;
  double memory_quantile = 0.99;  // of the fullest rank's rows, for its memory
  int moment_bytes = 4;

  // What the search tries; empty, 0: all that Sluice runs.
  int pipe = 0, data = 0, expert = 0, chunks = 0;
  std::vector<Precision> precisions;
  std::vector<std::string> schedules;
  std::vector<int> microbatch_sizes;
  std::vector<RecomputeChoice> recompute;
  std::vector<int> zero_stages;  // empty: 1, the one that Sluice runs; the others are costs only
};

struct PlanEntry {
  Layout layout;
  std::vector<StageShare> stages;
  MemoryUse memory;       // of the fullest rank
  double row_factor = 1;  // its rows over the mean, that was counted with
  int fullest_rank = 0;
  double step_seconds = 0, pipeline_seconds = 0;
  TailCost tail;       // of the slowest rank
  double bubble = 0;   // share of the pipeline part
  double exposed = 0;  // share of it that waits for exchanges
  double tokens_per_second_rank = 0;
  double utilisation = 0;  // of the BF16 peak, causal, prediction modules not counted
  double days = 0, device_hours = 0, dollars = 0;
  std::string why_not;  // empty: fits
};

// Schedules by shape and draws of imbalance by group: made once.
class PlanCache {
 public:
  // Null when the generator refuses; `why` (may be null) then says so.
  const Schedule* Get(const Layout& layout, std::string* why);
  const Imbalance& ImbalanceOf(const PlanRequest& request, int members);

 private:
  std::map<std::string, absl::StatusOr<Schedule>> known_;
  std::map<std::string, Imbalance> imbalance_;
};

enum class Detail : uint8_t {
  kSearch,  // one group, mean imbalance: fast
  kFull     // every group, drawn imbalance
};

// One layout. INVALID_ARGUMENT when it is none (sizes that do not divide); a layout that does not
// fit memory, budget or deadline comes back with why_not.
absl::StatusOr<PlanEntry> Evaluate(const PlanRequest& request, const Layout& layout,
                                   PlanCache& schedules, Detail detail);

struct Plans {
  std::vector<PlanEntry> fitting;  // fastest first, at most `most`
  int tried = 0, num_fitting = 0;
  std::map<std::string, int> refused;  // reason, without numbers -> how many
  std::vector<PlanEntry> nearest;      // of those that lack memory, the smallest
};
Plans MakePlans(const PlanRequest& request, int most);

// What a rank holds while it runs `schedule`; `row_factor` of the fullest rank.
MemoryUse MemoryOf(const PlanRequest& request, const Layout& layout, const LayoutCosts& costs,
                   const std::vector<StageShare>& stages, const Schedule& schedule, int rank,
                   double row_factor);

}  // namespace sluice::parallel
