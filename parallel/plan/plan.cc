#include "parallel/plan/plan.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/core/status_macros.h"
#include "parallel/sim/simulate.h"

namespace sluice::parallel {
namespace {

absl::Status CheckLayout(const PlanRequest& request, const Layout& layout) {
  const ModelWork& model = request.model;
  if (layout.pipe < 1 || layout.data < 1 || layout.expert < 1 || layout.tensor < 1 ||
      layout.context < 1 || layout.microbatch < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("sizes: found ", layout.ToString(), ", wanted sizes of at least 1"));
  }
  if (layout.data * layout.tensor * layout.context % layout.expert != 0) {
    return absl::InvalidArgumentError(absl::StrCat("expert: found ", layout.expert,
                                                   ", wanted a divisor of data x tensor x context "
                                                   "= ",
                                                   layout.data * layout.tensor * layout.context));
  }
  if (model.experts > 0 && model.experts % layout.expert != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "expert: found ", layout.expert, ", wanted a divisor of the ", model.experts, " experts"));
  }
  if (layout.zero < 0 || layout.zero > 3) {
    return absl::InvalidArgumentError(
        absl::StrCat("zero: found stage ", layout.zero, ", wanted 0 to 3"));
  }
  if (request.global_batch % (int64_t{layout.data} * layout.microbatch) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "batch: found ", request.global_batch,
        ", wanted a multiple of data x microbatch = ", layout.data, " x ", layout.microbatch));
  }
  return absl::OkStatus();
}

void FillMemory(const PlanRequest& request, const LayoutCosts& costs, const Schedule& schedule,
                double row_factor, PlanEntry& entry) {
  entry.row_factor = row_factor;
  for (int rank = 0; rank < schedule.num_ranks(); ++rank) {
    const MemoryUse use =
        MemoryOf(request, entry.layout, costs, entry.stages, schedule, rank, row_factor);
    if (rank > 0 && use.total() <= entry.memory.total()) continue;
    entry.memory = use;
    entry.fullest_rank = rank;
  }
  const Device& device = request.cluster.device;
  const double room = device.memory_bytes - device.reserved_bytes;
  if (entry.memory.total() > room) {
    entry.why_not = absl::StrFormat(
        "memory, mostly %s: rank %d of the pipeline needs %.1f GB of %.1f, %.1f too much (%s; the "
        "fullest rank gets %.2f times the mean rows)",
        entry.memory.LargestKind(), entry.fullest_rank, entry.memory.total() / 1e9, room / 1e9,
        (entry.memory.total() - room) / 1e9, entry.memory.ToString(), row_factor);
  }
}

void FillMoney(const PlanRequest& request, PlanEntry& entry) {
  const double tokens = static_cast<double>(request.global_batch) *
                        static_cast<double>(request.model.sequence_length);
  const int ranks = entry.layout.num_ranks();
  entry.tokens_per_second_rank = tokens / entry.step_seconds / ranks;
  entry.utilisation = entry.tokens_per_second_rank * request.model.flops_per_token /
                      request.cluster.device.peak(Precision::kBf16);
  if (request.tokens <= 0) return;
  const double seconds = request.tokens / tokens * entry.step_seconds;
  entry.days = seconds / 86400;
  entry.device_hours = seconds / 3600 * ranks;
  entry.dollars = entry.device_hours * request.cluster.dollars_per_device_hour;
  if (!entry.why_not.empty()) return;
  if (request.max_days > 0 && entry.days > request.max_days)
    entry.why_not = absl::StrFormat("deadline: %.1f days of %.1f", entry.days, request.max_days);
  if (request.max_dollars > 0 && entry.dollars > request.max_dollars)
    entry.why_not = absl::StrFormat("budget: $%.0f of $%.0f", entry.dollars, request.max_dollars);
}

}  // namespace

const Imbalance& PlanCache::ImbalanceOf(const PlanRequest& request, int members) {
  const std::string key = absl::StrCat(request.model.experts, " ", members, " ", request.expert_cv,
                                       " ", request.routes.size());
  const auto found = imbalance_.find(key);
  if (found != imbalance_.end()) return found->second;
  return imbalance_
      .emplace(key, request.routes.empty() ? Imbalance::FromDistribution(request.model.experts,
                                                                         members, request.expert_cv)
                                           : Imbalance::FromTrace(request.routes, members))
      .first->second;
}

const Schedule* PlanCache::Get(const Layout& layout, std::string* why) {
  const std::string key =
      absl::StrCat(layout.schedule, " ", layout.pipe, " ", layout.chunks, " ", layout.microbatches);
  auto found = known_.find(key);
  if (found == known_.end()) {
    found = known_
                .emplace(key, MakeSchedule(layout.schedule,
                                           {layout.pipe, layout.microbatches, layout.chunks}))
                .first;
  }
  if (found->second.ok()) return &*found->second;
  if (why != nullptr) *why = std::string(found->second.status().message());
  return nullptr;
}

absl::StatusOr<PlanEntry> Evaluate(const PlanRequest& request, const Layout& written,
                                   PlanCache& schedules, Detail detail) {
  RETURN_IF_ERROR(CheckLayout(request, written));
  PlanEntry entry;
  entry.layout = written;
  entry.layout.microbatches = request.global_batch / (written.data * written.microbatch);
  std::string why;
  const Schedule* schedule = schedules.Get(entry.layout, &why);
  if (schedule == nullptr) return absl::InvalidArgumentError(why);
  const LayoutCosts costs(request.model, request.cluster, entry.layout);
  ASSIGN_OR_RETURN(entry.stages, costs.Split());
  const Imbalance& imbalance = schedules.ImbalanceOf(request, entry.layout.expert);
  FillMemory(request, costs, *schedule, imbalance.Quantile(request.memory_quantile), entry);
  if (!entry.why_not.empty() && detail == Detail::kSearch) return entry;

  const StepCosts step = costs.Costs(entry.stages, *schedule);
  SimulationRequest simulation{.schedule = schedule, .costs = &step, .keep_spans = false};
  simulation.members = entry.layout.expert;
  const int groups =
      entry.layout.data * entry.layout.tensor * entry.layout.context / entry.layout.expert;
  if (request.cluster.cores_per_node > 0) {  // then groups take each other's time
    simulation.cores_per_node = request.cluster.cores_per_node;
    simulation.waiting_core_share = request.cluster.waiting_core_share;
    simulation.ranks_per_node = request.cluster.network.ranks_per_node;
    simulation.groups = groups;
  }
  if (detail == Detail::kFull) {
    simulation.groups = groups;
    std::vector<int> moe_layers;
    for (const StageShare& stage : entry.stages) moe_layers.push_back(costs.num_moe_layers(stage));
    simulation.rows = imbalance.Factors(std::move(moe_layers));
  } else {
    simulation.rows.constant = imbalance.mean();
  }
  ASSIGN_OR_RETURN(const Timeline timeline, Simulate(simulation));
  entry.step_seconds = timeline.step_seconds;
  entry.pipeline_seconds = timeline.pipeline_seconds;
  for (const TailCost& tail : step.tails) {
    if (tail.total() > entry.tail.total()) entry.tail = tail;
  }
  entry.bubble = timeline.bubble();
  entry.exposed = timeline.exposed_comm();
  FillMoney(request, entry);
  return entry;
}

}  // namespace sluice::parallel
