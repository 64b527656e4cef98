// `sluice simulate`: a pipeline schedule played on many ranks, drawn and timed.
#include "parallel/sim/simulate.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "kernels/core/status_macros.h"
#include "launch/commands/commands.h"
#include "launch/json_text.h"
#include "launch/load_config.h"
#include "launch/plan_input.h"
#include "parallel/sim/render.h"
#include "trainer/loop/planned_step.h"

namespace sluice::launch {
namespace {

using parallel::Layout;
using parallel::Timeline;

// A forward, an input gradient and a weight gradient of one second each, in every stage.
parallel::StepCosts UnitCosts(int num_stages) {
  parallel::ChunkCost chunk;
  chunk.forward = {{parallel::PhaseKind::kOther, parallel::Lane::kCompute, 1}};
  chunk.backward_input = chunk.backward_weight = chunk.forward;
  chunk.weight_after = {1};
  parallel::StepCosts costs;
  costs.stages.assign(num_stages, chunk);
  return costs;
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  if (path.empty()) return absl::OkStatus();
  std::ofstream out(path, std::ios::trunc);
  out << text;
  out.close();
  return out ? absl::OkStatus() : absl::UnavailableError(absl::StrCat(path, ": cannot be written"));
}

class Simulate : public Command {
 public:
  std::string name() const override { return "simulate"; }
  std::string summary() const override { return "plays a pipeline schedule and draws it"; }
  std::string description() const override {
    return "Plays the schedule of a config on all its ranks, with the costs of its model on a\n"
           "cluster: exchanges, overlap, messages, uneven experts, stragglers, optimizer. Without\n"
           "--cluster every forward and each half of a backward takes one second.\n\n"
           "  sluice simulate --preset tiny --set mesh.pipe=4 --set schedule=zb_h1 \\\n"
           "      --set train.global_batch=8\n"
           "  sluice simulate --preset deepseek_v3 --cluster h800_2048 --set mesh.pipe=16 \\\n"
           "      --set mesh.expert=64 --set schedule=dualpipe --trace step.json --svg step.svg\n"
           "  sluice simulate ... --straggler 15=1.3 --imbalance 0.3";
  }
  FlagSet flags() override {
    FlagSet flags = FlagsOf(config_flags_);
    const FlagSet own = {
        {.name = "--cluster",
         .value = "NAME|FILE",
         .help = "what to compute on",
         .target = &cluster_},
        {.name = "--nodes",
         .value = "N",
         .help = "nodes in place of the cluster's",
         .target = &nodes_},
        {.name = "--imbalance",
         .value = "CV",
         .help = "spread of an expert's load in a microbatch (default 0)",
         .target = &expert_cv_},
        {.name = "--routes",
         .value = "FILE",
         .help = "recorded loads in place of it",
         .target = &routes_},
        {.name = "--straggler",
         .value = "RANK=FACTOR",
         .help = "a rank whose compute takes longer; may be repeated",
         .target = &stragglers_},
        {.name = "--width",
         .value = "N",
         .help = "columns of the drawing (default 100)",
         .target = &width_},
        {.name = "--trace",
         .value = "FILE",
         .help = "for chrome://tracing and Perfetto",
         .target = &trace_},
        {.name = "--svg", .value = "FILE", .help = "a drawing", .target = &svg_},
        {.name = "--json",
         .help = "one JSON object in place of the drawing; exposed_communication is of exchanges, "
                 "reductions and gathers are in the tail",
         .target = &json_}};
    flags.insert(flags.end(), own.begin(), own.end());
    return flags;
  }

  absl::Status Run(const CommandContext& /*context*/) override {
    ASSIGN_OR_RETURN(const trainer::RunConfig config, LoadConfig(config_flags_));
    RETURN_IF_ERROR(Prepare(config));
    parallel::SimulationRequest request{.schedule = schedule_, .costs = &costs_};
    request.members = layout_.expert;
    request.groups = std::max(1, layout_.data / layout_.expert);
    request.cores_per_node = cores_per_node_;
    request.ranks_per_node = ranks_per_node_;
    request.waiting_core_share = waiting_core_share_;
    if (!moe_layers_.empty()) request.rows = imbalance_.Factors(moe_layers_);
    RETURN_IF_ERROR(ReadStragglers(request.stragglers));
    const auto start = std::chrono::steady_clock::now();
    ASSIGN_OR_RETURN(const Timeline timeline, parallel::Simulate(request));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    RETURN_IF_ERROR(WriteText(trace_, parallel::ToChromeTrace(timeline)));
    RETURN_IF_ERROR(WriteText(svg_, parallel::ToSvg(timeline)));
    json_ ? PrintJson(timeline, took.count()) : PrintText(timeline, took.count());
    return absl::OkStatus();
  }

 private:
  absl::Status Prepare(const trainer::RunConfig& config) {
    parallel::Cluster cluster;
    int ranks = std::max(1, config.mesh().pipe()) * std::max(1, config.mesh().data());
    if (!cluster_.empty()) {
      ASSIGN_OR_RETURN(cluster, LoadCluster(cluster_, static_cast<int>(nodes_)));
      ranks = cluster.num_ranks();
    }
    // Ranks on CPUs are as many as one starts: more than cores share these.
    if (cluster.cores_per_node > 0 && config.mesh().has_data()) {
      ranks = std::max(1, config.mesh().pipe()) * config.mesh().data();
      cluster.network.ranks_per_node = std::max(1, ranks / cluster.nodes);
    }
    cores_per_node_ = cluster.cores_per_node;
    ranks_per_node_ = cluster.network.ranks_per_node;
    waiting_core_share_ = cluster.waiting_core_share;
    ASSIGN_OR_RETURN(layout_, trainer::PlanLayout(config, ranks));
    const int batch = std::max(1, config.train().global_batch());
    if (batch % (layout_.data * layout_.microbatch) != 0 || layout_.data % layout_.expert != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("simulate: found a global batch of ", batch, " and expert ", layout_.expert,
                       ", wanted a multiple of data x microbatch = ", layout_.data, " x ",
                       layout_.microbatch, " and a divisor of data"));
    }
    layout_.microbatches = batch / (layout_.data * layout_.microbatch);
    std::string why;
    schedule_ = schedules_.Get(layout_, &why);
    if (schedule_ == nullptr) return absl::InvalidArgumentError(why);
    costs_ = UnitCosts(schedule_->num_stages);
    if (cluster_.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const parallel::ModelWork model, LoadModelWork(config));
    const parallel::LayoutCosts costs(model, cluster, layout_);
    ASSIGN_OR_RETURN(const auto stages, trainer::StageShares(config, layout_));
    costs_ = costs.Costs(stages, *schedule_);
    for (const parallel::StageShare& stage : stages)
      moe_layers_.push_back(costs.num_moe_layers(stage));
    imbalance_ = parallel::Imbalance::FromDistribution(model.experts, layout_.expert, expert_cv_);
    if (!routes_.empty()) {
      ASSIGN_OR_RETURN(const parallel::RouteTrace routes, LoadRoutes(routes_));
      if (routes[0].rows.size() % layout_.expert != 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("--routes: found ", routes[0].rows.size(),
                         " experts a line, wanted a multiple of mesh.expert = ", layout_.expert));
      }
      imbalance_ = parallel::Imbalance::FromTrace(routes, layout_.expert);
    }
    return absl::OkStatus();
  }

  absl::Status ReadStragglers(std::vector<parallel::Straggler>& stragglers) const {
    for (const std::string& text : stragglers_) {
      const std::pair<absl::string_view, absl::string_view> halves =
          absl::StrSplit(text, absl::MaxSplits('=', 1));
      parallel::Straggler straggler;
      if (!absl::SimpleAtoi(halves.first, &straggler.rank) ||
          !absl::SimpleAtod(halves.second, &straggler.factor)) {
        return absl::InvalidArgumentError(
            absl::StrCat("--straggler: found \"", text, "\", wanted RANK=FACTOR, as in 15=1.3"));
      }
      stragglers.push_back(straggler);
    }
    return absl::OkStatus();
  }

  void PrintText(const Timeline& timeline, double took) const {
    std::printf(
        "%s\n%s", layout_.ToString().c_str(),
        parallel::DrawGantt(timeline, static_cast<int>(std::max<int64_t>(10, width_))).c_str());
    const parallel::TailCost& tail = timeline.tail;
    std::printf(
        "step %.4f s: pipeline %.4f, gradients reduced %.4f, optimizer %.4f, parameters gathered "
        "%.4f\nof the pipeline bubble %.1f%%, exposed exchanges %.1f%%; %d ranks played in %.3f "
        "s\n",
        timeline.step_seconds, timeline.pipeline_seconds, tail.reduce_gradients, tail.optimizer,
        tail.gather_parameters, 100 * timeline.bubble(), 100 * timeline.exposed_comm(),
        timeline.num_ranks(), took);
  }

  static Json JsonOf(const parallel::TailCost& tail) {
    return {{"reduce_gradients", tail.reduce_gradients},
            {"optimizer", tail.optimizer},
            {"gather_parameters", tail.gather_parameters}};
  }

  // exposed_communication: where compute waits for an exchange, a share of the pipeline part (of a
  // pipeline: seconds). Reductions and gathers are not in it: "tail" is that of the longest rank,
  // "tails" has the pipeline ranks'.
  void PrintJson(const Timeline& timeline, double took) const {
    Json ranks = Json::array();
    for (const parallel::RankTimes& rank : timeline.ranks) {
      ranks.push_back({{"compute", rank.compute},
                       {"exposed_communication", rank.exposed_comm},
                       {"idle", rank.idle},
                       {"finish", rank.finish}});
    }
    Json tails = Json::array();
    for (const parallel::TailCost& tail : timeline.tails) tails.push_back(JsonOf(tail));
    const Json object = {{"schedule", layout_.schedule},
                         {"ranks", timeline.num_ranks()},
                         {"groups", timeline.groups},
                         {"members", timeline.members},
                         {"step_seconds", timeline.step_seconds},
                         {"pipeline_seconds", timeline.pipeline_seconds},
                         {"bubble", timeline.bubble()},
                         {"exposed_communication", timeline.exposed_comm()},
                         {"simulation_seconds", took},
                         {"slowest_group", timeline.slowest_group()},
                         {"tail", JsonOf(timeline.tail)},
                         {"tails", tails},
                         {"pipelines", ranks}};
    std::puts(JsonText(object).c_str());
  }

  ConfigFlags config_flags_;
  std::string cluster_, routes_, trace_, svg_;
  std::vector<std::string> stragglers_;
  int64_t nodes_ = 0, width_ = 100;
  double expert_cv_ = 0;
  bool json_ = false;

  Layout layout_;
  parallel::PlanCache schedules_;
  const parallel::Schedule* schedule_ = nullptr;
  parallel::StepCosts costs_;
  std::vector<int> moe_layers_;
  int cores_per_node_ = 0, ranks_per_node_ = 1;
  double waiting_core_share_ = 0;
  parallel::Imbalance imbalance_ = parallel::Imbalance::Balanced();
};

}  // namespace

std::unique_ptr<Command> CreateSimulateCommand() { return std::make_unique<Simulate>(); }

}  // namespace sluice::launch
