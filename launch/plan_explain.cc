// One layout's step, line by line: `sluice plan --explain`.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/core/status_macros.h"
#include "launch/plan_report.h"
#include "parallel/plan/layout.h"
#include "parallel/sim/lanes.h"

namespace sluice::launch {
namespace {

using parallel::ChunkCost;
using parallel::Lane;
using parallel::Phase;

void AppendPhases(const char* what, const std::vector<Phase>& phases, double factor,
                  std::string& text) {
  double compute = 0, comm = 0;
  for (const Phase& phase : phases) {
    absl::StrAppendFormat(&text, "  %-16s %-10s %8.3f ms%s\n", what, NameOf(phase.kind),
                          phase.seconds * 1e3, phase.lane == Lane::kComm ? "  exchange" : "");
    (phase.lane == Lane::kComm ? comm : compute) += phase.seconds;
  }
  absl::StrAppendFormat(
      &text, "  %-16s together   %8.3f ms compute (%.3f beside exchanges), %.3f ms exchange\n",
      what, compute * 1e3, compute * factor * 1e3, comm * 1e3);
}

std::string StagesText(const std::vector<parallel::StageShare>& stages) {
  std::string text;
  for (const parallel::StageShare& stage : stages) {
    absl::StrAppend(&text, text.empty() ? "" : " ", stage.has_embedding ? "embed+" : "",
                    stage.num_layers, stage.has_head ? "+head" : "");
  }
  return text;
}

// The step above has the exchange and the memory of a tuned program. Where this one differs today:
// a token's row goes to each of its experts' ranks, across nodes too, and the CUDA backend keeps
// two copies of the weights.
absl::StatusOr<std::string> TodayText(parallel::PlanRequest request, parallel::Layout layout,
                                      parallel::PlanCache& schedules) {
  if (request.cluster.cores_per_node > 0) return "";  // those are one node, and count their copies
  layout.exchange = parallel::ExchangeKind::kFlat;
  request.cluster.device.weight_copies = std::max(2, request.cluster.device.weight_copies);
  ASSIGN_OR_RETURN(const parallel::PlanEntry entry,
                   parallel::Evaluate(request, layout, schedules, parallel::Detail::kFull));
  return absl::StrFormat(
      "10. as train runs it today, a row to each expert's rank and two copies of the weights: step "
      "%.3f s,\n    exposed exchange %.1f%%, %.1f GB\n",
      entry.step_seconds, 100 * entry.exposed, entry.memory.total() / 1e9);
}

}  // namespace

absl::StatusOr<std::string> ExplainText(const parallel::PlanRequest& request,
                                        const parallel::Layout& written) {
  parallel::PlanCache schedules;
  ASSIGN_OR_RETURN(const parallel::PlanEntry entry,
                   parallel::Evaluate(request, written, schedules, parallel::Detail::kFull));
  const parallel::Layout& layout = entry.layout;
  const parallel::LayoutCosts costs(request.model, request.cluster, layout);
  const parallel::Schedule* schedule = schedules.Get(layout, nullptr);
  const parallel::StepCosts step = costs.Costs(entry.stages, *schedule);
  const parallel::Imbalance imbalance = parallel::Imbalance::FromDistribution(
      request.model.experts, layout.expert, request.expert_cv);
  const double factor = step.compute_factor_in_overlap, rows = imbalance.mean();
  std::string text = absl::StrCat(layout.ToString(), " on ", request.cluster.name, "\n");
  absl::StrAppendFormat(
      &text, "1. a microbatch: %.0f tokens of a rank, %.0f routed rows, %d experts of %d\n",
      costs.tokens(), costs.rows(), costs.local_experts(), request.model.experts);
  const parallel::LayerWork& layer = request.model.layers.back();
  const ChunkCost cost = costs.LayerCost(layer);
  text += "2. one layer (the last kind), even experts:\n";
  AppendPhases("forward", cost.forward, factor, text);
  AppendPhases("input gradients", cost.backward_input, factor, text);
  AppendPhases("weight gradients", cost.backward_weight, factor, text);
  absl::StrAppend(&text, "3. layers of the stages, by cost: ", StagesText(entry.stages), "\n");
  const ChunkCost& chunk = step.stages[step.stages.size() / 2];
  const auto pair = parallel::PlayPair({&chunk, &chunk, 1, 1, factor});
  const auto uneven = parallel::PlayPair({&chunk, &chunk, rows, rows, factor});
  const double forward = SumOf(chunk.forward, rows, 1).seconds;
  const double input = SumOf(chunk.backward_input, rows, 1).seconds;
  const double weight = SumOf(chunk.backward_weight, rows, 1).seconds;
  absl::StrAppendFormat(
      &text,
      "4. a middle stage: F %.1f, I %.1f, W %.1f ms one by one; F and B overlapped %.1f ms with "
      "even\n"
      "   experts, %.1f ms with the fullest of %d ranks %.2f times the mean (spread %.2f)\n",
      forward * 1e3, input * 1e3, weight * 1e3, pair.seconds * 1e3, uneven.seconds * 1e3,
      layout.expert, rows, request.expert_cv);
  absl::StrAppendFormat(
      &text,
      "5. %d microbatches in %s: pipeline %.3f s, of it bubble %.1f%%, exposed exchange "
      "%.1f%%; a message %.2f ms\n",
      layout.microbatches, layout.schedule, entry.pipeline_seconds, 100 * entry.bubble,
      100 * entry.exposed, step.message_seconds * 1e3);
  absl::StrAppendFormat(
      &text, "6. gradients reduced %.3f s, optimizer %.3f s, parameters gathered %.3f s\n",
      entry.tail.reduce_gradients, entry.tail.optimizer, entry.tail.gather_parameters);
  absl::StrAppendFormat(
      &text, "7. step %.3f s = %.0f tokens/s a rank, utilisation %.1f%% of the BF16 peak\n",
      entry.step_seconds, entry.tokens_per_second_rank, 100 * entry.utilisation);
  if (request.tokens > 0) {
    const double tokens = static_cast<double>(request.global_batch) *
                          static_cast<double>(request.model.sequence_length);
    absl::StrAppendFormat(
        &text, "8. %.0f steps: %.1f days, %.0fK device hours (%.1fK a trillion tokens), $%.3fM\n",
        request.tokens / tokens, entry.days, entry.device_hours / 1e3,
        entry.device_hours / (request.tokens / 1e12) / 1e3, entry.dollars / 1e6);
  }
  const parallel::MemoryUse& use = entry.memory;
  absl::StrAppendFormat(
      &text,
      "9. memory of pipeline rank %d: parameters %.1f, gradients %.1f, optimizer %.1f, "
      "activations %.1f, exchange %.1f, scratch %.1f: %.1f GB%s\n",
      entry.fullest_rank, use.parameters / 1e9, use.gradients / 1e9, use.optimizer / 1e9,
      use.activations / 1e9, use.communication / 1e9, use.scratch / 1e9, use.total() / 1e9,
      entry.why_not.empty() ? "" : absl::StrCat(" (", entry.why_not, ")"));
  ASSIGN_OR_RETURN(const std::string today, TodayText(request, written, schedules));
  return text + today;
}

}  // namespace sluice::launch
