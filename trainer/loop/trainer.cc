#include "trainer/loop/trainer.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoints/retention.h"
#include "google/protobuf/text_format.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "kernels/cpu/scratch.h"
#include "kernels/ops/peak_rate.h"
#include "trainer/loop/device_batch.h"
#include "trainer/loop/evaluate.h"
#include "trainer/loop/fp8_report.h"
#include "trainer/loop/gate_statistics.h"
#include "trainer/loop/generate.h"
#include "trainer/loop/keep_tokenizer.h"
#include "trainer/loop/memory_check.h"
#include "trainer/loop/planned_step.h"
#include "trainer/loop/product_table.h"
#include "trainer/loop/rank_model.h"
#include "trainer/loop/resident_memory.h"
#include "trainer/loop/resolve_config.h"
#include "trainer/loop/resume.h"
#include "trainer/loop/run_data.h"
#include "trainer/loop/run_state.h"
#include "trainer/loop/step_line.h"
#include "trainer/loop/train_step.h"
#include "trainer/model/finetune.h"

namespace sluice::trainer {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

constexpr double kPeakSeconds = 0.2;

class TrainingRun {
 public:
  // resident_at_start: ResidentBytes() before anything was made.
  TrainingRun(const RunConfig& config, const RankContext& rank, std::unique_ptr<RunData> data,
              int64_t resident_at_start)
      : resident_at_start_(resident_at_start),
        config_(config),
        rank_(rank),
        files_(checkpoints::CreatePosixFileSystem()),
        lr_(MakeLrSchedule(config.train())),
        ramp_(MakeBatchRamp(config)),
        data_(std::move(data)) {}

  absl::Status Prepare();
  absl::Status Loop();

 private:
  bool is_first() const { return rank_.world->rank() == 0; }
  void Print(const std::string& text) const {
    if (rank_.print && is_first()) rank_.print(text);
  }
  absl::Status WriteConfig();
  absl::Status KeepTokenizer();
  absl::Status CheckDisk();
  absl::Status OpenMetrics();
  absl::Status MeasurePeak();
  absl::Status PreparePlan();
  std::optional<PlannedStep> PlanOf(int64_t sequences);
  void PrintNoPlan(const absl::Status& why) const;
  absl::Status LoadBatch(int64_t step);
  absl::Status Step(int64_t step);
  absl::Status Report(int64_t step, const StepResult& result, double seconds,
                      const Fp8Health* health);
  absl::Status ReportFp8(int64_t step, Fp8Health& health);
  absl::Status AfterStep(int64_t step);
  absl::Status Save();
  absl::Status Evaluate();
  absl::Status Sample();
  absl::Status PrintMemory() const;
  using MemoryByTag = std::array<int64_t, kernels::kNumMemoryTags>;
  MemoryByTag HeldMemory() const;
  void CountScratch();
  void PrintGrowth(int64_t step, const MemoryByTag& before) const;
  absl::StatusOr<bool> AnyStopRequest();
  absl::Status CheckSkips(const StepResult& result);

  const int64_t resident_at_start_;
  int64_t counted_scratch_ = 0;
  const RunConfig config_;
  const RankContext rank_;
  std::unique_ptr<checkpoints::FileSystem> files_;
  const LrSchedule lr_;
  const BatchRamp ramp_;
  std::unique_ptr<RunData> data_;
  std::unique_ptr<RankModel> model_;
  std::unique_ptr<DeviceBatch> batch_;
  HostBatch host_batch_;  // keeps its memory from step to step
  std::unique_ptr<MetricsFile> metrics_, evaluations_, routes_;
  std::optional<RunPlanner> planner_;
  RunState state_;
  double flops_per_token_ = 0, peak_flops_ = 0, smoothed_seconds_ = 0;
  int64_t last_saved_ = -1, last_evaluated_ = -1;
};

// Under another name first: a full disk must not cost the file that is there.
absl::Status TrainingRun::WriteConfig() {
  if (!is_first()) return absl::OkStatus();
  const std::string path = config_.run().dir() + "/config.textproto";
  std::string text;
  google::protobuf::TextFormat::PrintToString(config_, &text);
  std::ofstream out(path + ".new", std::ios::trunc);
  out << text;
  out.close();
  std::error_code error;
  if (out) std::filesystem::rename(path + ".new", path, error);
  if (out && !error) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(path, ": cannot be written"));
}

// The run's folder is all that scoring and generation need.
absl::Status TrainingRun::KeepTokenizer() {
  if (!is_first()) return absl::OkStatus();
  return trainer::KeepTokenizer(data_->tokenizer_path(), config_.run().dir());
}

// A run that could not save anything is refused before its first step.
absl::Status TrainingRun::CheckDisk() {
  ASSIGN_OR_RETURN(const int64_t bytes, StateBytes(*model_));
  absl::Status enough;
  if (is_first()) enough = checkpoints::CheckFreeSpace(*files_, CheckpointDir(config_), bytes);
  return AgreeOnStatus(*rank_.world, enough);
}

// The sum over ranks, each measured while the others measure too.
absl::Status TrainingRun::MeasurePeak() {
  const DType dtype = config_.compute().precision() == "FP32" ? DType::kF32 : DType::kBF16;
  RETURN_IF_ERROR(rank_.world->Barrier());
  ASSIGN_OR_RETURN(peak_flops_, kernels::MeasurePeakRate(model_->stream(), dtype, kPeakSeconds));
  RETURN_IF_ERROR(rank_.world->AllReduce(TensorView(&peak_flops_, DType::kF64, {1}),
                                         parallel::ReduceOp::kSum, model_->stream()));
  Print(absl::StrFormat("peak of %d ranks x %d threads: %.0f GFLOP/s (registers only, %s)",
                        rank_.world->size(), rank_.device->num_threads(), peak_flops_ / 1e9,
                        config_.compute().precision()));
  return absl::OkStatus();
}

// The planner counts all parameters as trained; what a GPU reaches it cannot guess.
absl::Status TrainingRun::PreparePlan() {
  const bool guessed = config_.run().cluster().empty();
  const bool countable =
      config_.finetune().mode() == "full" && (config_.compute().device() == "cpu" || !guessed);
  if (!is_first() || !countable) return absl::OkStatus();
  MachineAtHand machine{peak_flops_ * rank_.ranks_on_host / rank_.world->size(),
                        config_.compute().precision(), rank_.ranks_on_host,
                        rank_.device->num_threads()};
  parallel::Cluster cluster = TypicalMachine(machine);
  if (!guessed) {
    ASSIGN_OR_RETURN(cluster, ReadClusterFile(config_.run().cluster()));
  }
  auto planner =
      RunPlanner::Create(config_, cluster, rank_.ranks_on_host, rank_.device->num_threads());
  if (planner.ok()) {
    planner_ = *std::move(planner);
  } else {
    PrintNoPlan(planner.status());
  }
  if (const auto planned = PlanOf(BatchSize(ramp_, state_.step + 1))) {
    const double mib = 1048576.0;
    const parallel::MemoryUse& use = planned->memory;
    Print(absl::StrFormat(
        "planned on %s: %.1f ms a step; rank 0 comes to hold %.1f MiB (activations %.1f, "
        "communication %.1f)",
        cluster.name, planned->seconds * 1e3, use.total() / mib, use.activations / mib,
        use.communication / mib));
  }
  return absl::OkStatus();
}

void TrainingRun::PrintNoPlan(const absl::Status& why) const {
  Print(absl::StrCat("no plan beside the steps: ", why.message()));
}

// Null where there is no plan. A plan is shown, not needed: without one the run goes on.
std::optional<PlannedStep> TrainingRun::PlanOf(int64_t sequences) {
  if (!planner_.has_value()) return std::nullopt;
  auto planned = planner_->Plan(sequences, /*pipe_rank=*/0);
  if (planned.ok()) return *planned;
  PrintNoPlan(planned.status());
  planner_.reset();
  return std::nullopt;
}

absl::Status TrainingRun::Prepare() {
  ASSIGN_OR_RETURN(model_, RankModel::Create(config_, rank_));
  Print(absl::StrFormat("mesh %s, schedule %s, %s", model_->mesh().ToString(), config_.schedule(),
                        config_.compute().precision()));
  if (!rank_.device->libraries().empty()) Print(rank_.device->libraries());
  Print(
      absl::StrCat("memory of rank 0 before the first step:\n", rank_.device->memory().ToString()));
  RETURN_IF_ERROR(CheckDisk());
  RETURN_IF_ERROR(MeasurePeak());
  RETURN_IF_ERROR(AgreeOnStatus(*rank_.world, PreparePlan()));
  RunState beginning;
  beginning.tokenizer_hash = data_->tokenizer().hash();
  beginning.data_identity = data_->train_identity();
  ASSIGN_OR_RETURN(state_, StartState(*model_, rank_, beginning, *files_));
  last_saved_ = state_.step;
  RETURN_IF_ERROR(DemoteLayers(*model_, state_.fp8_demoted));
  // Only now: a run that was refused must leave the folder as it was.
  RETURN_IF_ERROR(AgreeOnStatus(*rank_.world, WriteConfig()));
  RETURN_IF_ERROR(AgreeOnStatus(*rank_.world, KeepTokenizer()));
  batch_ = std::make_unique<DeviceBatch>(*rank_.device, MakeBatchOptions(config_));
  // A backward costs twice its forward.
  flops_per_token_ = 3 * ForwardFlops(config_.model(), config_.train().sequence_length()).total;
  return AgreeOnStatus(*rank_.world, OpenMetrics());
}

absl::Status TrainingRun::OpenMetrics() {
  if (!is_first()) return absl::OkStatus();
  const std::string& dir = config_.run().dir();
  ASSIGN_OR_RETURN(MetricsFile metrics, MetricsFile::Open(dir + "/metrics.jsonl", state_.step));
  ASSIGN_OR_RETURN(MetricsFile evaluations, MetricsFile::Open(dir + "/eval.jsonl", state_.step));
  metrics_ = std::make_unique<MetricsFile>(std::move(metrics));
  evaluations_ = std::make_unique<MetricsFile>(std::move(evaluations));
  if (config_.run().routes().empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(MetricsFile routes, MetricsFile::Open(config_.run().routes(), state_.step));
  routes_ = std::make_unique<MetricsFile>(std::move(routes));
  return absl::OkStatus();
}

absl::Status TrainingRun::LoadBatch(int64_t step) {
  const int64_t sequences = BatchSize(ramp_, step), per_rank = sequences / config_.mesh().data();
  const int64_t mine = per_rank * model_->data_rank();
  RETURN_IF_ERROR(data_->ReadTrain(FirstSample(ramp_, step) + mine, per_rank, &host_batch_));
  return batch_->Load(host_batch_, mine);
}

// The table of all ranks, and the end of FP8 for layers that it does not suit.
absl::Status TrainingRun::ReportFp8(int64_t step, Fp8Health& health) {
  ASSIGN_OR_RETURN(health, MergeHealth(*rank_.world, health));
  Print(absl::StrCat("FP8 health of step ", step,
                     " (errors: relative to BF16 products, first microbatch):\n", health.Table()));
  const double limit = config_.fp8().demote_above();
  const std::vector<std::string> demoted = LayersAbove(health, limit);
  for (const auto& layer : health.layers()) {
    if (std::find(demoted.begin(), demoted.end(), layer->name) == demoted.end()) continue;
    Print(
        absl::StrFormat("step %d: %s goes on in BF16: its relative error in FP8 was %.3g, the "
                        "limit fp8.demote_above is %.3g",
                        step, layer->name, layer->RelativeError(), limit));
    state_.fp8_demoted.push_back(layer->name);
  }
  return DemoteLayers(*model_, demoted);
}

absl::Status TrainingRun::Report(int64_t step, const StepResult& result, double seconds,
                                 const Fp8Health* health) {
  if (!is_first()) return absl::OkStatus();
  // The mean of recent steps, for the time that is left.
  smoothed_seconds_ = smoothed_seconds_ == 0 ? seconds : 0.9 * smoothed_seconds_ + 0.1 * seconds;
  StepReport report;
  report.step = step;
  report.steps = config_.train().steps();
  report.result = result;
  report.num_skipped = state_.num_skipped();
  report.learning_rate = LearningRate(lr_, step);
  report.seconds = seconds;
  report.fp8_health = health;
  report.flops_per_token = flops_per_token_;
  report.peak_flops = peak_flops_;
  report.num_experts = config_.model().n_routed_experts();
  report.eta_seconds = smoothed_seconds_ * static_cast<double>(report.steps - step);
  const std::optional<PlannedStep> planned = PlanOf(BatchSize(ramp_, step));
  if (planned.has_value()) {
    report.planned = &*planned;
    report.memory = &rank_.device->memory();
  }
  Print(StepLine(report));
  if (routes_ != nullptr) {
    const ModelConfig& model = config_.model();
    std::string lines =
        RouteLines(step, result.load, model.n_routed_experts(), model.first_k_dense_replace());
    if (!lines.empty()) lines.pop_back();  // the file ends each row itself
    RETURN_IF_ERROR(routes_->Append(lines));
  }
  return metrics_->Append(StepJson(report));
}

// A few steps that are not finite happen; many in a row mean that the run is broken.
absl::Status TrainingRun::CheckSkips(const StepResult& result) {
  state_.skipped_in_a_row = result.skipped ? state_.skipped_in_a_row + 1 : 0;
  if (state_.skipped_in_a_row < config_.train().max_skipped_in_a_row()) return absl::OkStatus();
  RETURN_IF_ERROR(Save());
  return absl::FailedPreconditionError(absl::StrCat(
      "loss or gradient was not finite in ", state_.skipped_in_a_row, " steps in a row (step ",
      state_.step, "), wanted fewer than train.max_skipped_in_a_row; the state is saved in ",
      CheckpointDir(config_)));
}

TrainingRun::MemoryByTag TrainingRun::HeldMemory() const {
  MemoryByTag held = {};
  for (int tag = 0; tag < kernels::kNumMemoryTags; ++tag) {
    held[tag] = rank_.device->memory().bytes(static_cast<kernels::MemoryTag>(tag));
  }
  return held;
}

// What the threads of the CPU's kernels took for themselves; ranks of one process, as tests run
// them, share it.
void TrainingRun::CountScratch() {
  const int64_t now = kernels::cpu::Scratch::total_bytes();
  rank_.device->CountElsewhere(kernels::MemoryTag::kScratch, now - counted_scratch_);
  counted_scratch_ = now;
}

// Buffers only grow. Once a run has seen its largest, there is no such line.
void TrainingRun::PrintGrowth(int64_t step, const MemoryByTag& before) const {
  const MemoryByTag now = HeldMemory();
  for (int tag = 0; tag < kernels::kNumMemoryTags; ++tag) {
    if (now[tag] == before[tag]) continue;
    const bool small = now[tag] < 1048576;
    const double unit = small ? 1024 : 1048576;
    Print(absl::StrFormat("step %d: %s of rank 0 grew from %.1f to %.1f %s", step,
                          kernels::NameOf(static_cast<kernels::MemoryTag>(tag)),
                          static_cast<double>(before[tag]) / unit,
                          static_cast<double>(now[tag]) / unit, small ? "KiB" : "MiB"));
  }
}

absl::Status TrainingRun::Step(int64_t step) {
  const double start = Now();
  RETURN_IF_ERROR(AgreeOnStatus(*rank_.world, LoadBatch(step)));
  StepOptions options;
  options.global_sequences = BatchSize(ramp_, step);
  options.learning_rate = LearningRate(lr_, step);
  options.update = state_.updates + 1;
  std::optional<Fp8Health> health;
  const int64_t every = config_.fp8().report_every();
  if (config_.compute().precision() == "FP8" && every > 0 && step % every == 0) health.emplace();
  options.fp8_health = health.has_value() ? &*health : nullptr;
  const MemoryByTag held_before = HeldMemory();
  ASSIGN_OR_RETURN(const StepResult result, TrainStep(*model_, *batch_, options));
  CountScratch();
  PrintGrowth(step, held_before);
  state_.step = step;
  state_.updates += result.skipped ? 0 : 1;
  state_.next_sample = FirstSample(ramp_, step + 1);
  state_.load = result.load;
  const double seconds = Now() - start;
  if (health.has_value()) RETURN_IF_ERROR(ReportFp8(step, *health));
  RETURN_IF_ERROR(AgreeOnStatus(*rank_.world, Report(step, result, seconds, options.fp8_health)));
  return CheckSkips(result);
}

absl::Status TrainingRun::Save() {
  if (last_saved_ == state_.step) return absl::OkStatus();
  SaveOptions options;
  options.dir = CheckpointDir(config_);
  options.keep = config_.checkpoint().keep();
  options.log = [this](absl::string_view message) { Print(std::string(message)); };
  const double start = Now();
  ASSIGN_OR_RETURN(const std::string path, SaveState(*model_, state_, options, *files_));
  last_saved_ = state_.step;
  Print(absl::StrFormat("saved %s in %.2f s", path, Now() - start));
  return absl::OkStatus();
}

absl::Status TrainingRun::Evaluate() {
  if (last_evaluated_ == state_.step || data_->num_validation_sequences() == 0)
    return absl::OkStatus();
  ASSIGN_OR_RETURN(const EvaluationResult result,
                   EvaluateText(*model_, *data_, config_.eval().batches()));
  last_evaluated_ = state_.step;
  Print(EvaluationLine(result, state_.step));
  if (!is_first()) return absl::OkStatus();
  return evaluations_->Append(EvaluationJson(result, state_.step));
}

absl::Status TrainingRun::Sample() {
  SamplingOptions sampling;
  sampling.seed = config_.train().seed();
  ASSIGN_OR_RETURN(const std::string text,
                   SampleText(*model_, data_->tokenizer(), config_.eval().sample_prompt(),
                              config_.eval().sample_tokens(), sampling));
  Print(absl::StrCat("sample after step ", state_.step, ": ", text));
  return absl::OkStatus();
}

absl::StatusOr<bool> TrainingRun::AnyStopRequest() {
  int64_t stop = rank_.stop_requested && rank_.stop_requested() ? 1 : 0;
  RETURN_IF_ERROR(rank_.world->AllReduce(TensorView(&stop, DType::kI64, {1}),
                                         parallel::ReduceOp::kMax, model_->stream()));
  return stop != 0;
}

absl::Status TrainingRun::AfterStep(int64_t step) {
  const auto due = [&](int64_t every) { return every > 0 && step % every == 0; };
  if (due(config_.checkpoint().every())) RETURN_IF_ERROR(Save());
  if (due(config_.eval().every())) RETURN_IF_ERROR(Evaluate());
  if (due(config_.eval().sample_every())) RETURN_IF_ERROR(Sample());
  return absl::OkStatus();
}

// The table beside what the system says, so that memory nobody counted shows.
absl::Status TrainingRun::PrintMemory() const {
  Print(absl::StrCat("memory of rank 0 at the end:\n", rank_.device->memory().ToString()));
  ASSIGN_OR_RETURN(const std::string resident,
                   CompareResident(*rank_.world, rank_.device->memory().total_bytes(),
                                   ResidentBytes() - resident_at_start_));
  Print(resident);
  return absl::OkStatus();
}

absl::Status TrainingRun::Loop() {
  if (state_.step >= config_.train().steps()) {
    Print(absl::StrCat("this run is finished: step ", state_.step,
                       " of train.steps = ", config_.train().steps()));
    return absl::OkStatus();
  }
  for (int64_t step = state_.step + 1; step <= config_.train().steps(); ++step) {
    RETURN_IF_ERROR(Step(step));
    RETURN_IF_ERROR(AfterStep(step));
    ASSIGN_OR_RETURN(const bool stop, AnyStopRequest());
    if (stop) {
      Print(absl::StrCat("asked to stop: saving after step ", step));
      return Save();
    }
  }
  RETURN_IF_ERROR(Save());
  RETURN_IF_ERROR(Evaluate());
  if (state_.num_skipped() > 0) {
    Print(
        absl::StrCat(state_.num_skipped(), " of ", state_.step, " steps were skipped: not finite"));
  }
  return PrintMemory();
}

absl::Status MakeFolders(const RunConfig& config, const RankContext& rank) {
  if (rank.world->rank() != 0) return absl::OkStatus();
  std::error_code error;
  std::filesystem::create_directories(CheckpointDir(config), error);
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("run.dir: cannot make ", CheckpointDir(config), ": ", error.message()));
}

// What only the data or a file tells: steps from epochs, experts from finetune.experts_file.
absl::StatusOr<RunConfig> CompleteConfig(RunConfig config, const RunData& data,
                                         const RankContext& rank) {
  FinetuneConfig& finetune = *config.mutable_finetune();
  if (finetune.layer_experts().empty() && !finetune.experts_file().empty()) {
    absl::StatusOr<std::vector<LayerExperts>> layers = ReadExpertsFile(finetune.experts_file());
    RETURN_IF_ERROR(AgreeOnStatus(*rank.world, layers.status()));
    for (LayerExperts& layer : *layers) *finetune.add_layer_experts() = std::move(layer);
    RETURN_IF_ERROR(ValidateFinetune(finetune, config.model()));
  }
  RETURN_IF_ERROR(CheckTrainsSomething(finetune, config.model()));
  if (config.train().epochs() > 0) {
    const double samples =
        config.train().epochs() * static_cast<double>(data.num_train_sequences());
    const auto steps = static_cast<int64_t>(
        std::ceil(samples / static_cast<double>(config.train().global_batch())));
    config.mutable_train()->set_steps(std::max<int64_t>(1, steps));
    ResolveLrSteps(*config.mutable_train());
    if (rank.print) {
      rank.print(absl::StrFormat("%g epochs of %d sequences: %d steps", config.train().epochs(),
                                 data.num_train_sequences(), config.train().steps()));
    }
  }
  return config;
}

}  // namespace

absl::Status Train(const RunConfig& config, const RankContext& rank) {
  if (config.data().train().empty() && config.data().sft().empty()) {
    return absl::InvalidArgumentError(
        "data.train: found nothing, wanted text or token files (or data.bundled_sample, or "
        "conversations in data.sft)");
  }
  const int64_t resident_at_start = ResidentBytes();
  RETURN_IF_ERROR(AgreeOnStatus(*rank.world, MakeFolders(config, rank)));
  ASSIGN_OR_RETURN(auto data, RunData::Open(config, rank));
  ASSIGN_OR_RETURN(const RunConfig whole, CompleteConfig(config, *data, rank));
  RETURN_IF_ERROR(CheckLibraries(whole));
  RETURN_IF_ERROR(CheckMemory(whole, rank));
  TrainingRun run(whole, rank, std::move(data), resident_at_start);
  RETURN_IF_ERROR(run.Prepare());
  return run.Loop();
}

}  // namespace sluice::trainer
