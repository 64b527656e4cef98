// What a step says: one line of fixed width for eyes, one JSON object for machines.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/memory_table.h"
#include "trainer/loop/planned_step.h"
#include "trainer/loop/train_step.h"

namespace sluice::trainer {

struct StepReport {
  int64_t step = 0, steps = 0;
  StepResult result;
  int64_t num_skipped = 0;  // of the run's steps so far, this one included
  double learning_rate = 0;
  double seconds = 0;
  double peak_flops = 0;       // of all ranks together, measured at start; 0: unknown
  double flops_per_token = 0;  // forward and backward
  int64_t num_experts = 0;
  double eta_seconds = 0;
  const PlannedStep* planned = nullptr;          // null: no plan
  const kernels::MemoryTable* memory = nullptr;  // of the rank that was planned; null with it
  const Fp8Health* fp8_health = nullptr;         // null: not reported in this step

  double tokens_per_second() const;
  double share_of_peak() const;  // 0 when the peak is unknown
};

// Expert load of one step: the worst gate's maximum over mean, and experts that no token chose.
struct LoadSummary {
  double max_over_mean = 1;
  int64_t dead_experts = 0;
};
LoadSummary SummarizeLoad(const std::vector<int64_t>& load, int64_t num_experts);

std::string StepLine(const StepReport& report);
std::string StepJson(const StepReport& report);  // one line, no newline
// {"step": 7, "layer": 3, "rows": [12, 0, ...]}, a line a gate: what plan and simulate read with
// --routes. `first_layer`: of the first gate.
std::string RouteLines(int64_t step, const std::vector<int64_t>& load, int64_t num_experts,
                       int first_layer);

// DIR/metrics.jsonl: appended one row at a time.
class MetricsFile {
 public:
  // Drops rows of steps after `last_step` (a run that resumes wrote them in its earlier life).
  static absl::StatusOr<MetricsFile> Open(const std::string& path, int64_t last_step);
  absl::Status Append(const std::string& json);

 private:
  explicit MetricsFile(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

}  // namespace sluice::trainer
