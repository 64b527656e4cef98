// `sluice plan`: which layouts of a model fit a cluster, how long, how much.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/text_format.h"
#include "kernels/core/status_macros.h"
#include "launch/commands/commands.h"
#include "launch/json_text.h"
#include "launch/load_config.h"
#include "launch/plan_input.h"
#include "launch/plan_report.h"
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
           "the others do not fit. --published holds the same model against published runs.\n"
           "docs/plan.md goes through the DeepSeek-V3 figure line by line.\n\n"
           "  sluice plan --preset deepseek_v3 --cluster h800_2048 --tokens 14.8e12\n"
           "  sluice plan --preset qwen3_30b_a3b --cluster h100 --nodes 2 --tokens 1e12 \\\n"
           "      --budget 100000 --write plan.textproto --set train.global_batch=512\n"
           "  sluice plan --preset deepseek_v3 --cluster h800_2048 --routes routes.jsonl\n"
           "  sluice plan --published";
  }
  FlagSet flags() override {
    FlagSet flags = FlagsOf(config_flags_);
    flags.insert(
        flags.end(),
        {{.name = "--cluster",
          .value = "NAME|FILE",
          .help = "h100, ... or a textproto (doctor --calibrate writes one)",
          .target = &cluster_},
         {.name = "--nodes",
          .value = "N",
          .help = "nodes in place of the cluster's",
          .target = &nodes_},
         {.name = "--tokens", .value = "N", .help = "tokens to train on", .target = &tokens_},
         {.name = "--budget",
          .value = "DOLLARS",
          .help = "leave out what costs more",
          .target = &budget_},
         {.name = "--deadline",
          .value = "DAYS",
          .help = "leave out what takes longer",
          .target = &deadline_},
         {.name = "--imbalance",
          .value = "CV",
          .help = "spread of an expert's load in a microbatch: deviation over mean (default 0.2)",
          .target = &expert_cv_},
         {.name = "--routes",
          .value = "FILE",
          .help = "recorded loads in place of --imbalance; what expert placement would gain",
          .target = &routes_},
         {.name = "--zero",
          .value = "STAGES",
          .help = "ZeRO stages to try, such as 1,2,3 (default 1; train runs no other)",
          .target = &zero_},
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
         {.name = "--json", .help = "one JSON object in place of the table", .target = &json_}});
    return flags;
  }

  absl::Status Run(const CommandContext& /*context*/) override {
    if (published_) return Published();
    if (cluster_.empty())
      return absl::InvalidArgumentError(
          "--cluster: found nothing, wanted a machine to plan for (sluice help plan)");
    ASSIGN_OR_RETURN(const trainer::RunConfig config, LoadConfig(config_flags_));
    parallel::PlanRequest request;
    RETURN_IF_ERROR(FillRequest(config, request));
    if (explain_) return Explain(config, request);
    parallel::Plans plans = parallel::MakePlans(request, static_cast<int>(top_));
    if (request.cluster.cores_per_node > 0) RehearseAll(config, request, plans);
    if (json_) {
      std::puts(JsonText(PlansJson(request, plans)).c_str());
    } else {
      std::fputs(PlansText(request, plans).c_str(), stdout);
      if (!request.routes.empty()) RETURN_IF_ERROR(PrintPlacement(request, plans));
    }
    if (plans.fitting.empty())
      return absl::FailedPreconditionError("plan: no layout fits; the reasons are above");
    return write_.empty() ? absl::OkStatus() : Write(config, plans.fitting[0]);
  }

 private:
  absl::Status FillRequest(const trainer::RunConfig& config, parallel::PlanRequest& request) {
    ASSIGN_OR_RETURN(request.model, LoadModelWork(config));
    ASSIGN_OR_RETURN(request.cluster, LoadCluster(cluster_, static_cast<int>(nodes_)));
    request.tokens = tokens_;
    for (const absl::string_view word : absl::StrSplit(zero_, ',', absl::SkipWhitespace())) {
      int stage = -1;
      if (!absl::SimpleAtoi(word, &stage) || stage < 0 || stage > 3) {
        return absl::InvalidArgumentError(
            absl::StrCat("--zero: found \"", word, "\", wanted stages of 0 to 3, as in 1,2,3"));
      }
      request.zero_stages.push_back(stage);
    }
    request.global_batch = config.train().has_global_batch() ? config.train().global_batch() : 0;
    if (request.global_batch < 1) {
      return absl::InvalidArgumentError(
          "train.global_batch: found nothing, wanted the sequences of a step (--set "
          "train.global_batch=512)");
    }
    request.max_dollars = budget_;
    request.max_days = deadline_;
    request.expert_cv = expert_cv_;
    request.moment_bytes = config.train().moment_dtype() == "BF16" ? 2 : 4;
    if (config.compute().has_precision()) {
      ASSIGN_OR_RETURN(const auto precision, trainer::ParsePrecision(config.compute().precision()));
      request.precisions = {precision};
    }
    if (request.cluster.device.peak_fp8 > 0 && config.compute().precision() != "FP32")
      request.precisions = {parallel::Precision::kBf16, parallel::Precision::kFp8};
    if (config.has_schedule()) request.schedules = {config.schedule()};
    if (!routes_.empty()) {
      ASSIGN_OR_RETURN(request.routes, LoadRoutes(routes_));
      const int found = static_cast<int>(request.routes[0].rows.size());
      if (found != request.model.experts) {
        return absl::InvalidArgumentError(absl::StrCat(
            "--routes: found ", found, " experts a line, wanted ", request.model.experts));
      }
    }
    return absl::OkStatus();
  }

  absl::Status PrintPlacement(const parallel::PlanRequest& request, const parallel::Plans& plans) {
    if (plans.fitting.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const std::string text, PlacementText(request, plans.fitting[0].layout));
    std::fputs(text.c_str(), stdout);
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
    ASSIGN_OR_RETURN(const std::vector<PublishedCheck> checks, CheckPublishedRuns(expert_cv_));
    std::fputs(json_ ? (JsonText(PublishedJson(checks)) + "\n").c_str()
                     : PublishedText(checks, expert_cv_).c_str(),
               stdout);
    return absl::OkStatus();
  }

  ConfigFlags config_flags_;
  std::string cluster_, routes_, write_, zero_;
  int64_t nodes_ = 0, top_ = 10;
  double tokens_ = 0, budget_ = 0, deadline_ = 0, expert_cv_ = 0.2;
  bool published_ = false, explain_ = false, json_ = false;
};

}  // namespace

std::unique_ptr<Command> CreatePlanCommand() { return std::make_unique<Plan>(); }

}  // namespace sluice::launch
