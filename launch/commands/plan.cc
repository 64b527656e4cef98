// `sluice plan`: which layouts of a model fit a cluster, how long, how much.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/text_format.h"
#include "kernels/core/status_macros.h"
#include "launch/commands/commands.h"
#include "launch/json_text.h"
#include "launch/load_config.h"
#include "launch/plan_input.h"
#include "launch/plan_report.h"
#include "launch/plan_request.h"
#include "launch/presets.h"
#include "trainer/loop/planned_step.h"
#include "trainer/loop/rehearsal.h"
#include "trainer/loop/trainer.h"

namespace sluice::launch {
namespace {

class Plan : public Command {
 public:
  std::string name() const override { return "plan"; }
  std::string summary() const override { return "time, memory and money of a run on a cluster"; }
  std::string description() const override {
    return "Tries every layout that Sluice runs (mesh, schedule, microbatch, recompute, "
           "precision)\n"
           "and prints those that fit, fastest first, with memory of the fullest rank by kind, "
           "the\n"
           "step's time, bubble and exposed communication, days, device hours and money; and why\n"
           "the others do not fit. What --set says of mesh, schedule, train.microbatch,\n"
           "compute.precision and compute.recompute is kept; what a preset says of them is not.\n"
           "--published holds the same model against published runs, --run against one of yours.\n"
           "docs/plan.md goes through the DeepSeek-V3 figure line by line.\n\n"
           "  sluice plan --preset deepseek_v3 --cluster h800_2048 --tokens 14.8e12\n"
           "  sluice plan --preset qwen3_30b_a3b --cluster h100 --nodes 2 --tokens 1e12 \\\n"
           "      --budget 100000 --write plan.textproto --set train.global_batch=512\n"
           "  sluice plan --preset deepseek_v3 --cluster h800_2048 --routes routes.jsonl\n"
           "  sluice plan --published\n"
           "  sluice plan --run launch/published/deepseek_v3_h800.textproto";
  }
  FlagSet flags() override {
    FlagSet flags = FlagsOf(config_flags_);
    flags.insert(
        flags.end(),
        {{.name = "--cluster",
          .value = "NAME|FILE",
          .help = "h100, ... or a textproto (doctor --calibrate writes one)",
          .target = &flags_.cluster},
         {.name = "--nodes",
          .value = "N",
          .help = "nodes in place of the cluster's",
          .target = &flags_.nodes},
         {.name = "--tokens", .value = "N", .help = "tokens to train on", .target = &flags_.tokens},
         {.name = "--budget",
          .value = "DOLLARS",
          .help = "leave out what costs more",
          .target = &flags_.budget},
         {.name = "--deadline",
          .value = "DAYS",
          .help = "leave out what takes longer",
          .target = &flags_.deadline},
         {.name = "--imbalance",
          .value = "CV",
          .help = "spread of an expert's load in a microbatch: deviation over mean (default 0.2)",
          .target = &flags_.expert_cv},
         {.name = "--routes",
          .value = "FILE",
          .help = "recorded loads in place of --imbalance; what expert placement would gain",
          .target = &flags_.routes},
         {.name = "--zero",
          .value = "STAGES",
          .help = "ZeRO stages to try, such as 1,2,3 (default 1; train runs no other)",
          .target = &flags_.zero},
         {.name = "--top", .value = "N", .help = "layouts to print (default 10)", .target = &top_},
         {.name = "--write",
          .value = "FILE",
          .help = "the best layout as a config for train",
          .target = &write_},
         {.name = "--explain",
          .help = "the step of the layout in the config, line by line, in place of a search",
          .target = &explain_},
         {.name = "--published",
          .help = "predict published runs, with errors",
          .target = &published_},
         {.name = "--run",
          .value = "FILE",
          .help = "predict a run that you know, a file such as those of launch/published; may be "
                  "repeated",
          .target = &runs_},
         {.name = "--json", .help = "one JSON object in place of the table", .target = &json_}});
    return flags;
  }

  absl::Status Run(const CommandContext& /*context*/) override {
    if (published_ || !runs_.empty()) return Published();
    if (flags_.cluster.empty())
      return absl::InvalidArgumentError(
          "--cluster: found nothing, wanted a machine to plan for (sluice help plan)");
    ASSIGN_OR_RETURN(const trainer::RunConfig config, LoadConfig(config_flags_));
    ASSIGN_OR_RETURN(const parallel::PlanRequest request,
                     MakePlanRequest(flags_, config_flags_, config));
    if (explain_) return Explain(config, request);
    parallel::Plans plans = parallel::MakePlans(request, static_cast<int>(top_));
    if (plans.tried == 0) {
      return absl::InvalidArgumentError(
          "plan: found no layout to try, wanted mesh.pipe, schedule and schedule_chunks that go "
          "together (one pipeline rank runs 1f1b; interleaved has 2 chunks or more, dualpipe_v 2, "
          "the others 1)");
    }
    if (request.cluster.cores_per_node > 0) RehearseAll(config, request, plans);
    RETURN_IF_ERROR(Print(request, plans));
    if (plans.fitting.empty())
      return absl::FailedPreconditionError("plan: no layout fits; the reasons are above");
    return write_.empty() ? absl::OkStatus() : Write(config, plans.fitting[0]);
  }

 private:
  absl::Status Print(const parallel::PlanRequest& request, const parallel::Plans& plans) const {
    PlacementGains gains;  // of the first layout
    if (!request.routes.empty() && !plans.fitting.empty()) {
      ASSIGN_OR_RETURN(gains, GainsOfPlacement(request, plans.fitting[0].layout));
    }
    if (json_) {
      Json json = PlansJson(request, plans);
      if (!gains.layers.empty()) json["placement"] = PlacementJson(gains);
      std::puts(JsonText(json).c_str());
      return absl::OkStatus();
    }
    std::fputs(PlansText(request, plans).c_str(), stdout);
    if (!gains.layers.empty()) std::fputs(PlacementText(gains).c_str(), stdout);
    return absl::OkStatus();
  }

  static void SetLayout(const parallel::PlanEntry& entry, trainer::RunConfig& config) {
    const parallel::Layout& layout = entry.layout;
    config.mutable_mesh()->set_pipe(layout.pipe);
    config.mutable_mesh()->set_data(layout.data);
    config.mutable_mesh()->set_expert(layout.expert);
    config.set_schedule(layout.schedule);
    config.set_schedule_chunks(layout.chunks);
    std::vector<int> layers;
    for (const parallel::StageShare& stage : entry.stages) layers.push_back(stage.num_layers);
    config.set_stage_layers(absl::StrJoin(layers, ","));
    config.mutable_train()->set_microbatch(layout.microbatch);
    config.mutable_compute()->set_precision(std::string(parallel::NameOf(layout.precision)));
    config.mutable_compute()->set_recompute(layout.recompute.ToString());
  }

  // On CPUs the best layouts' memory is what their ranks really take; one that then does not fit is
  // left out.
  static void RehearseAll(const trainer::RunConfig& config, const parallel::PlanRequest& request,
                          parallel::Plans& plans) {
    const parallel::Device& device = request.cluster.device;
    const auto does_not_fit = [&](parallel::PlanEntry& entry) {
      if (entry.layout.zero != 1) return false;  // train runs no other: the estimate stays
      trainer::RunConfig run = config;
      SetLayout(entry, run);
      const auto resolved = trainer::Resolve(run, entry.layout.num_ranks());
      if (!resolved.ok()) return false;
      const auto use =
          trainer::Rehearse(*resolved, {.pipe_rank = entry.fullest_rank,
                                        .threads = std::max(1, run.compute().threads()),
                                        .sequences = request.global_batch,
                                        .row_factor = entry.row_factor});
      if (!use.ok()) return false;
      entry.memory = *use;
      return use->total() > device.memory_bytes - device.reserved_bytes;
    };
    const auto rest = std::remove_if(plans.fitting.begin(), plans.fitting.end(), does_not_fit);
    const auto left_out = static_cast<int>(plans.fitting.end() - rest);
    if (left_out > 0) plans.refused["memory, as rehearsed"] += left_out;
    plans.num_fitting -= left_out;
    plans.fitting.erase(rest, plans.fitting.end());
  }

  absl::Status Write(trainer::RunConfig config, const parallel::PlanEntry& entry) {
    const parallel::Layout& layout = entry.layout;
    if (layout.zero != 1) {
      return absl::FailedPreconditionError(
          absl::StrCat("--write: found ZeRO stage ", layout.zero,
                       " in the fastest layout, wanted 1, the one that train runs"));
    }
    SetLayout(entry, config);
    std::string text;
    google::protobuf::TextFormat::PrintToString(config, &text);
    std::ofstream out(write_, std::ios::trunc);
    out << "# Written by sluice plan: " << layout.ToString() << "\n" << text;
    out.close();
    if (!out) return absl::UnavailableError(absl::StrCat(write_, ": cannot be written"));
    std::printf("\nwritten: %s\n", write_.c_str());
    return absl::OkStatus();
  }

  absl::Status Explain(const trainer::RunConfig& config, const parallel::PlanRequest& request) {
    ASSIGN_OR_RETURN(const parallel::Layout layout,
                     trainer::PlanLayout(config, request.cluster.num_ranks()));
    ASSIGN_OR_RETURN(const std::string text, ExplainText(request, layout));
    std::fputs(text.c_str(), stdout);
    return absl::OkStatus();
  }

  absl::Status Published() {
    std::vector<Preset> runs;
    if (published_) runs = PublishedRuns();
    for (const std::string& path : runs_) {
      ASSIGN_OR_RETURN(std::string text, ReadFile("--run", path));
      runs.push_back({path, std::move(text)});
    }
    ASSIGN_OR_RETURN(const std::vector<PublishedCheck> checks,
                     CheckPublishedRuns(runs, flags_.expert_cv));
    std::fputs(json_ ? (JsonText(PublishedJson(checks)) + "\n").c_str()
                     : PublishedText(checks, flags_.expert_cv).c_str(),
               stdout);
    return absl::OkStatus();
  }

  ConfigFlags config_flags_;
  PlanFlags flags_;
  std::string write_;
  std::vector<std::string> runs_;
  int64_t top_ = 10;
  bool published_ = false, explain_ = false, json_ = false;
};

}  // namespace

std::unique_ptr<Command> CreatePlanCommand() { return std::make_unique<Plan>(); }

}  // namespace sluice::launch
