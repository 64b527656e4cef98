#include "launch/plan_report.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/core/status_macros.h"
#include "parallel/plan/placement.h"

namespace sluice::launch {
namespace {

using parallel::Layout;
using parallel::MemoryUse;
using parallel::PlanEntry;
using parallel::PlanRequest;
using parallel::Plans;

std::string MemoryText(const MemoryUse& use) {
  const double gb = 1e9;
  const int digits = use.total() < gb ? 3 : 1;
  std::string text;
  for (const double bytes : {use.parameters, use.gradients, use.optimizer, use.activations,
                             use.communication, use.scratch}) {
    absl::StrAppendFormat(&text, "%5.*f ", digits, bytes / gb);
  }
  absl::StrAppendFormat(&text, "%6.*f", digits, use.total() / gb);
  return text;
}

Json EntryJson(const PlanEntry& entry) {
  const Layout& layout = entry.layout;
  const MemoryUse& use = entry.memory;
  return {{"mesh", {{"pipe", layout.pipe}, {"data", layout.data}, {"expert", layout.expert}}},
          {"schedule", layout.schedule},
          {"chunks", layout.chunks},
          {"microbatch", layout.microbatch},
          {"microbatches", layout.microbatches},
          {"precision", std::string(parallel::NameOf(layout.precision))},
          {"recompute", layout.recompute.ToString()},
          {"zero", layout.zero},
          {"step_seconds", entry.step_seconds},
          {"bubble", entry.bubble},
          {"exposed_communication", entry.exposed},
          {"tokens_per_second_rank", entry.tokens_per_second_rank},
          {"utilisation", entry.utilisation},
          {"days", entry.days},
          {"device_hours", entry.device_hours},
          {"dollars", entry.dollars},
          {"fullest_rank", entry.fullest_rank},
          {"row_factor", entry.row_factor},
          {"memory_bytes",
           {{"parameters", use.parameters},
            {"gradients", use.gradients},
            {"optimizer", use.optimizer},
            {"activations", use.activations},
            {"communication", use.communication},
            {"scratch", use.scratch},
            {"total", use.total()}}}};
}

// A device's share of the network a token's rows cross, and what a perfect machine would take.
std::string Heading(const PlanRequest& request) {
  const parallel::Cluster& cluster = request.cluster;
  return absl::StrFormat(
      "%s: %d x %d %s, %.0f GB each (%.0f reserved)\nmodel: %.1fB parameters, %.1f GFLOP a token; "
      "batch %d x %d\n",
      cluster.name, cluster.nodes, cluster.network.ranks_per_node, cluster.device.name,
      cluster.device.memory_bytes / 1e9, cluster.device.reserved_bytes / 1e9,
      request.model.parameters / 1e9, request.model.flops_per_token / 1e9, request.global_batch,
      request.model.sequence_length);
}

}  // namespace

std::string Money(double dollars) {
  return dollars >= 1e6 ? absl::StrFormat("$%.3fM", dollars / 1e6)
                        : absl::StrFormat("$%.0f", dollars);
}

std::string PlansText(const PlanRequest& request, const Plans& plans) {
  std::string text = Heading(request);
  absl::StrAppendFormat(&text, "%d layouts tried, %d fit", plans.tried, plans.num_fitting);
  if (!plans.fitting.empty()) {
    absl::StrAppendFormat(&text, "; memory at the %.0f%% quantile of the fullest rank's rows",
                          100 * request.memory_quantile);
  }
  text += "\n\n";
  absl::StrAppendFormat(&text, "%-3s %4s %4s %4s %-12s %3s %4s %5s %-18s | %8s %6s %6s %7s %5s", "",
                        "pipe", "data", "exp", "schedule", "mb", "n", "prec", "recompute", "step s",
                        "bubble", "expos", "tok/s", "util");
  absl::StrAppendFormat(&text, " | %5s %5s %5s %5s %5s %5s %6s GB", "param", "grad", "optim",
                        "activ", "comm", "scr", "total");
  if (request.tokens > 0) absl::StrAppendFormat(&text, " | %6s %9s %9s", "days", "hours", "cost");
  text += "\n";
  int place = 0;
  for (const PlanEntry& entry : plans.fitting) {
    const Layout& layout = entry.layout;
    const std::string schedule =
        absl::StrCat(layout.schedule, layout.chunks > 1 ? absl::StrCat(" x", layout.chunks) : "",
                     layout.zero != 1 ? absl::StrCat(" z", layout.zero) : "");
    absl::StrAppendFormat(
        &text, "%-3d %4d %4d %4d %-12s %3d %4d %5s %-18s | %8.3f %5.1f%% %5.1f%% %7.0f %4.1f%%",
        ++place, layout.pipe, layout.data, layout.expert, schedule.substr(0, 14), layout.microbatch,
        layout.microbatches, parallel::NameOf(layout.precision), layout.recompute.ToString(),
        entry.step_seconds, 100 * entry.bubble, 100 * entry.exposed, entry.tokens_per_second_rank,
        100 * entry.utilisation);
    absl::StrAppend(&text, " | ", MemoryText(entry.memory), "   ");
    if (request.tokens > 0) {
      absl::StrAppendFormat(&text, " | %6.1f %8.0fK %9s", entry.days, entry.device_hours / 1e3,
                            Money(entry.dollars));
    }
    text += "\n";
  }
  if (!plans.refused.empty()) text += "\nwhy not:\n";
  for (const auto& [why, count] : plans.refused)
    absl::StrAppendFormat(&text, "  %6d  %s\n", count, why);
  if (!plans.nearest.empty()) {
    text += "\nnearest to fitting:\n";
    for (const PlanEntry& entry : plans.nearest)
      absl::StrAppend(&text, "  ", entry.layout.ToString(), ": ", entry.why_not, "\n");
  }
  return text;
}

Json PlansJson(const PlanRequest& request, const Plans& plans) {
  Json fitting = Json::array(), refused = Json::object();
  for (const PlanEntry& entry : plans.fitting) fitting.push_back(EntryJson(entry));
  for (const auto& [why, count] : plans.refused) refused[why] = count;
  Json nearest = Json::array();
  for (const PlanEntry& entry : plans.nearest) {
    nearest.push_back(EntryJson(entry));
    nearest.back()["why_not"] = entry.why_not;
  }
  return {{"cluster", request.cluster.name},
          {"ranks", request.cluster.num_ranks()},
          {"tried", plans.tried},
          {"fit", plans.num_fitting},
          {"plans", fitting},
          {"refused", refused},
          {"nearest", nearest}};
}

absl::StatusOr<PlacementGains> GainsOfPlacement(const PlanRequest& request, const Layout& layout) {
  std::map<int, std::vector<double>> rows_of_layer;  // summed over steps
  for (const parallel::RouteCounts& counts : request.routes) {
    std::vector<double>& sum = rows_of_layer[counts.layer];
    sum.resize(counts.rows.size());
    for (size_t e = 0; e < sum.size(); ++e) sum[e] += static_cast<double>(counts.rows[e]);
  }
  PlacementGains gains;
  const int experts = request.model.experts;
  gains.ranks = layout.expert;
  gains.nodes =
      parallel::GroupShape{layout.expert, 1}.nodes(request.cluster.network.ranks_per_node);
  for (const auto& [layer, rows] : rows_of_layer) {
    ASSIGN_OR_RETURN(const auto naive, parallel::PlaceInOrder(rows, gains.ranks));
    parallel::PlacementShape shape{experts, request.model.groups, gains.nodes, gains.ranks};
    ASSIGN_OR_RETURN(const auto packed, parallel::PlaceExperts(rows, shape));
    shape.replicas += gains.ranks;
    ASSIGN_OR_RETURN(const auto copied, parallel::PlaceExperts(rows, shape));
    gains.layers.push_back(
        {layer, WorstOverMean(naive), WorstOverMean(packed), WorstOverMean(copied)});
  }
  for (const PlacementGains::Layer& layer : gains.layers) {
    const double share = 1.0 / static_cast<double>(gains.layers.size());
    gains.mean.in_order += share * layer.in_order;
    gains.mean.packed += share * layer.packed;
    gains.mean.copied += share * layer.copied;
  }
  return gains;
}

std::string PlacementText(const PlacementGains& gains) {
  std::string text = absl::StrFormat(
      "\nexpert placement on %d ranks of %d nodes, fullest rank over mean:\n%6s %9s %9s %9s\n",
      gains.ranks, gains.nodes, "layer", "in order", "packed", "+1 copy");
  const auto line = [&text](const std::string& name, const PlacementGains::Layer& layer) {
    absl::StrAppendFormat(&text, "%6s %9.3f %9.3f %9.3f\n", name, layer.in_order, layer.packed,
                          layer.copied);
  };
  for (const PlacementGains::Layer& layer : gains.layers) line(absl::StrCat(layer.layer), layer);
  line("mean", gains.mean);
  return text;
}

Json PlacementJson(const PlacementGains& gains) {
  const auto numbers = [](const PlacementGains::Layer& layer) {
    return Json{{"layer", layer.layer},
                {"in_order", layer.in_order},
                {"packed", layer.packed},
                {"one_copy_a_rank", layer.copied}};
  };
  Json layers = Json::array(), mean = numbers(gains.mean);
  for (const PlacementGains::Layer& layer : gains.layers) layers.push_back(numbers(layer));
  mean.erase("layer");
  return {{"ranks", gains.ranks}, {"nodes", gains.nodes}, {"layers", layers}, {"mean", mean}};
}

}  // namespace sluice::launch
