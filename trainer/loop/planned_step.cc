#include "trainer/loop/planned_step.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/text_format.h"
#include "kernels/core/status_macros.h"
#include "parallel/sim/simulate.h"
#include "trainer/loop/rehearsal.h"
#include "trainer/loop/resolve_config.h"
#include "trainer/loop/stage_map.h"
#include "trainer/model/model_config.h"
#include "trainer/model/plan_work.h"

namespace sluice::trainer {
namespace {

// The spread of an expert's rows in a microbatch; docs/plan.md.
constexpr double kExpertSpread = 0.2;

class FirstProblem : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, google::protobuf::io::ColumnNumber /*column*/,
                const std::string& message) override {
    if (text.empty()) text = absl::StrCat(line + 1, ": ", message);
  }
  std::string text;
};

}  // namespace

absl::StatusOr<parallel::Precision> ParsePrecision(const std::string& text) {
  const std::string lower = absl::AsciiStrToLower(text);
  if (lower == "fp32") return parallel::Precision::kFp32;
  if (lower == "bf16") return parallel::Precision::kBf16;
  if (lower == "fp8") return parallel::Precision::kFp8;
  return absl::InvalidArgumentError(
      absl::StrCat("precision: found \"", text, "\", wanted FP32, BF16 or FP8"));
}

absl::StatusOr<parallel::RecomputeChoice> ParseRecomputeChoice(const std::string& text) {
  parallel::RecomputeChoice choice;
  if (text == "everything") {
    choice.everything = true;
    return choice;
  }
  std::vector<absl::string_view> words = absl::StrSplit(text, ',', absl::SkipWhitespace());
  choice.moe = std::erase_if(words, [](absl::string_view word) {
                 return absl::StripAsciiWhitespace(word) == "moe";
               }) > 0;
  ASSIGN_OR_RETURN(const Recompute r, ParseRecompute(absl::StrJoin(words, ",")));
  choice.norms = r.norm;
  choice.mla_up = r.mla_up;
  choice.swiglu = r.swiglu;
  return choice;
}

absl::StatusOr<parallel::Layout> PlanLayout(const RunConfig& config, int ranks) {
  parallel::Layout layout;
  layout.pipe = std::max(1, config.mesh().pipe());
  layout.expert = std::max(1, config.mesh().expert());
  layout.data = config.mesh().has_data() ? config.mesh().data() : ranks / layout.pipe;
  layout.schedule = absl::AsciiStrToLower(config.has_schedule() ? config.schedule() : "1f1b");
  const bool two = layout.schedule == "interleaved" || layout.schedule == "dualpipe_v";
  layout.chunks = config.has_schedule_chunks() ? config.schedule_chunks() : (two ? 2 : 1);
  layout.microbatch = std::max(1, config.train().microbatch());
  layout.moment_bytes = config.train().moment_dtype() == "BF16" ? 2 : 4;
  const std::string precision =
      config.compute().has_precision() ? config.compute().precision() : "BF16";
  ASSIGN_OR_RETURN(layout.precision, ParsePrecision(precision));
  ASSIGN_OR_RETURN(layout.recompute, ParseRecomputeChoice(config.compute().recompute()));
  return layout;
}

absl::StatusOr<std::vector<parallel::StageShare>> StageShares(RunConfig config,
                                                              const parallel::Layout& layout) {
  ResolveModel(*config.mutable_model());
  RETURN_IF_ERROR(ValidateModel(config.model()));
  config.mutable_mesh()->set_pipe(layout.pipe);
  config.set_schedule(layout.schedule);
  config.set_schedule_chunks(layout.chunks);
  if (!config.train().has_sequence_length()) config.mutable_train()->set_sequence_length(4096);
  ASSIGN_OR_RETURN(const std::vector<StageSpec> specs, StageMap(config));
  std::vector<parallel::StageShare> stages;
  for (const StageSpec& spec : specs) {
    stages.push_back({spec.first_layer, spec.num_layers, spec.has_embedding, spec.has_head});
  }
  return stages;
}

absl::StatusOr<parallel::Cluster> ReadClusterFile(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in)
    return absl::NotFoundError(
        absl::StrCat("run.cluster: found ", path, ", wanted a cluster file that can be read"));
  parallel::ClusterProto proto;
  FirstProblem problem;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&problem);
  if (!parser.ParseFromString(text.str(), &proto))
    return absl::InvalidArgumentError(absl::StrCat("run.cluster: ", path, ":", problem.text));
  return parallel::ToCluster(proto);
}

parallel::Cluster TypicalMachine(const MachineAtHand& machine) {
  parallel::Cluster cluster;
  cluster.name = "this machine";
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  cluster.cores_per_node = std::max(1, cores / std::max(1, machine.threads));
  cluster.network.ranks_per_node = machine.ranks_on_host;
  // The peak was measured by all ranks at once.
  const double peak = machine.peak_flops / std::min(machine.ranks_on_host, cluster.cores_per_node);
  parallel::Device& device = cluster.device;
  device.name = "CPU";
  const bool fp32 = machine.precision == "FP32";
  device.peak_bf16 = fp32 ? 2 * peak : peak;
  device.peak_fp32 = fp32 ? peak : peak / 2;
  // As launch/clusters/laptop.textproto has them, from one machine; doctor --calibrate measures.
  device.product_efficiency = device.fp32_product_efficiency = 0.85;
  device.core_forward_efficiency = device.core_backward_efficiency = 0.45;
  device.memory_bytes_per_second = 16e9;
  device.memory_efficiency = 0.8;
  device.op_seconds = 2e-6;
  device.weight_copies = 2;  // packed for forward and for backward
  device.memory_bytes = machine.memory_bytes;
  cluster.network.inside = {4e9, 20e-6};
  return cluster;
}

absl::StatusOr<RunPlanner> RunPlanner::Create(const RunConfig& config,
                                              const parallel::Cluster& cluster, int ranks_on_host,
                                              int threads) {
  RunPlanner planner;
  planner.config_ = config;
  planner.threads_ = threads;
  parallel::PlanRequest& request = planner.request_;
  request.model = DescribeWork(config.model(), config.train().sequence_length());
  request.cluster = cluster;
  // Linear keeps a packing for forward and one for backward, on any device.
  request.cluster.device.weight_copies = std::max(2, request.cluster.device.weight_copies);
  if (cluster.cores_per_node > 0) request.cluster.network.ranks_per_node = ranks_on_host;
  request.global_batch = config.train().global_batch();
  request.expert_cv = kExpertSpread;
  ASSIGN_OR_RETURN(planner.layout_,
                   PlanLayout(config, config.mesh().pipe() * config.mesh().data()));
  request.moment_bytes = planner.layout_.moment_bytes;
  ASSIGN_OR_RETURN(planner.stages_, StageShares(config, planner.layout_));
  return planner;
}

absl::StatusOr<PlannedStep> RunPlanner::Plan(int64_t sequences, int pipe_rank) {
  const auto found = known_.find(sequences);
  if (found != known_.end()) return found->second;
  parallel::Layout layout = layout_;
  layout.microbatches = static_cast<int>(sequences / (layout.data * layout.microbatch));
  ASSIGN_OR_RETURN(
      const parallel::Schedule schedule,
      parallel::MakeSchedule(layout.schedule, {layout.pipe, layout.microbatches, layout.chunks}));
  const parallel::LayoutCosts costs(request_.model, request_.cluster, layout);
  const parallel::StepCosts step = costs.Costs(stages_, schedule);
  const auto imbalance = parallel::Imbalance::FromDistribution(std::max(1, request_.model.experts),
                                                               layout.expert, request_.expert_cv);
  parallel::SimulationRequest simulation{.schedule = &schedule, .costs = &step};
  simulation.groups = layout.data / layout.expert;
  simulation.members = layout.expert;
  simulation.rows.constant = imbalance.mean();
  simulation.cores_per_node = request_.cluster.cores_per_node;
  simulation.waiting_core_share = request_.cluster.waiting_core_share;
  simulation.ranks_per_node = std::max(1, request_.cluster.network.ranks_per_node);
  simulation.keep_spans = false;
  ASSIGN_OR_RETURN(const parallel::Timeline timeline, parallel::Simulate(simulation));
  PlannedStep planned;
  planned.seconds = timeline.step_seconds;
  planned.parts = {timeline.pipeline_seconds, timeline.tail.reduce_gradients,
                   timeline.tail.optimizer + timeline.tail.gather_parameters};
  const double row_factor = imbalance.Quantile(request_.memory_quantile);
  planned.memory =
      parallel::MemoryOf(request_, layout, costs, stages_, schedule, pipe_rank, row_factor);
  if (request_.cluster.cores_per_node > 0) {
    const auto rehearsed = Rehearse(config_, {.pipe_rank = pipe_rank,
                                              .threads = threads_,
                                              .sequences = sequences,
                                              .row_factor = row_factor});
    if (rehearsed.ok()) planned.memory = *rehearsed;  // else the estimate stands
  }
  known_[sequences] = planned;
  return planned;
}

}  // namespace sluice::trainer
