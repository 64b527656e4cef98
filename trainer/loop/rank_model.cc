#include "trainer/loop/rank_model.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "kernels/core/status_macros.h"
#include "kernels/ops/cast.h"
#include "parallel/comm/device_communicator.h"
#include "parallel/pipeline/executor.h"
#include "trainer/loop/parameter_rules.h"
#include "trainer/loop/resolve_config.h"
#include "trainer/loop/run_state.h"
#include "trainer/loop/stage_map.h"
#include "trainer/model/finetune.h"

namespace sluice::trainer {
namespace {

DType ComputeDType(const RunConfig& config) {
  return config.compute().precision() == "FP32" ? DType::kF32 : DType::kBF16;
}

int NumGates(const ModelConfig& config) {
  if (config.n_routed_experts() == 0) return 0;
  return std::max(0, config.num_hidden_layers() - config.first_k_dense_replace()) +
         config.num_nextn_predict_layers();
}

}  // namespace

RankModel::RankModel(const RunConfig& config, const RankContext& rank,
                     const parallel::ProcessMesh& mesh)
    : config_(config),
      rank_(rank),
      mesh_(mesh),
      world_(rank.world),
      device_(*rank.device),
      fp8_(MakeFp8Options(config)),
      num_gates_(NumGates(config.model())) {
  pool_ = std::make_unique<ActivationPool>(
      device_, [world = world_](const absl::Status& why) { world->Abort(why); }, nullptr);
}

RankModel::~RankModel() = default;

absl::StatusOr<std::unique_ptr<RankModel>> RankModel::Create(const RunConfig& config,
                                                             const RankContext& rank) {
  const parallel::MeshShape shape{config.mesh().pipe(), config.mesh().data(),
                                  config.mesh().expert()};
  ASSIGN_OR_RETURN(const parallel::ProcessMesh mesh,
                   parallel::ProcessMesh::Create(shape, rank.world->size()));
  std::unique_ptr<RankModel> model(new RankModel(config, rank, mesh));
  RETURN_IF_ERROR(AgreeOnStatus(*rank.world, model->StartNccl()));
  RETURN_IF_ERROR(model->SplitCommunicators());
  RETURN_IF_ERROR(model->SplitOptimizerGroups());
  RETURN_IF_ERROR(model->BuildStages());
  RETURN_IF_ERROR(model->Allocate());
  RETURN_IF_ERROR(model->CreateOptimizers());
  RETURN_IF_ERROR(model->ConnectPipe());
  return model;
}

absl::Status RankModel::StartNccl() {
  if (config_.compute().collectives() != "nccl") return absl::OkStatus();
  ASSIGN_OR_RETURN(nccl_, parallel::NcclSession::Create(device_));
  if (rank_.print) rank_.print("messages between GPUs by " + nccl_->Describe());
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<parallel::Communicator>> RankModel::ForDevice(
    std::unique_ptr<parallel::Communicator> ranks) {
  if (nccl_ != nullptr) return nccl_->Wrap(std::move(ranks));
  return parallel::CreateDeviceCommunicator(std::move(ranks), device_);
}

absl::Status RankModel::SplitCommunicators() {
  using parallel::Axis;
  const int me = world_->rank();
  const auto split = [&](Axis axis) -> absl::StatusOr<std::unique_ptr<parallel::Communicator>> {
    ASSIGN_OR_RETURN(auto ranks, world_->Split(mesh_.ColorOf(axis, me), me));
    return ForDevice(std::move(ranks));
  };
  ASSIGN_OR_RETURN(pipe_, split(Axis::kPipe));
  ASSIGN_OR_RETURN(data_, split(Axis::kData));
  ASSIGN_OR_RETURN(expert_, split(Axis::kExpert));
  ASSIGN_OR_RETURN(expert_data_, split(Axis::kExpertData));
  return absl::OkStatus();
}

// With two replicas rank r of the pipe and rank P - 1 - r hold the same two stages, laid out alike.
// They share one optimizer group, so gradients of both replicas are summed where those of data
// ranks are, and each parameter has one shard: data rank by data rank, the first half of the pipe
// before the second.
absl::Status RankModel::SplitOptimizerGroups() {
  using parallel::Axis;
  optimizer_groups_[static_cast<int>(ParameterGroup::kDense)] = data_.get();
  optimizer_groups_[static_cast<int>(ParameterGroup::kExpert)] = expert_data_.get();
  ASSIGN_OR_RETURN(const parallel::Schedule* schedule, ScheduleFor(microbatch_unit()));
  if (schedule->num_replicas() == 1) return absl::OkStatus();
  const int me = world_->rank(), pipe = mesh_.coordinate(Axis::kPipe, me),
            data = mesh_.coordinate(Axis::kData, me);
  const int mirror = mesh_.size(Axis::kPipe) - 1 - pipe;
  const int folded = std::min(pipe, mirror) * mesh_.size(Axis::kData) + data;
  for (const auto& [group, axis] : {std::pair(ParameterGroup::kDense, Axis::kData),
                                    std::pair(ParameterGroup::kExpert, Axis::kExpertData)}) {
    auto& ranks = mirrored_[static_cast<int>(group)];
    ASSIGN_OR_RETURN(ranks, world_->Split(mesh_.ColorOf(axis, folded), 2 * data + (pipe > mirror)));
    ASSIGN_OR_RETURN(ranks, ForDevice(std::move(ranks)));
    optimizer_groups_[static_cast<int>(group)] = ranks.get();
  }
  return absl::OkStatus();
}

absl::Status RankModel::BuildStages() {
  const ModelConfig& model = config_.model();
  const int num_stages = mesh_.size(parallel::Axis::kPipe) * config_.schedule_chunks();
  ASSIGN_OR_RETURN(const std::vector<StageSpec> specs, StageMap(config_));
  ASSIGN_OR_RETURN(auto is_trained, MakeIsTrained(config_.finetune()));
  store_.set_is_trained(std::move(is_trained));
  ASSIGN_OR_RETURN(const Recompute recompute, ParseRecompute(config_.compute().recompute()));
  if (model.n_routed_experts() > 0) {
    ASSIGN_OR_RETURN(exchange_,
                     parallel::TokenExchange::Create(device_, *expert_, model.n_routed_experts(),
                                                     model.num_experts_per_tok()));
  }
  ASSIGN_OR_RETURN(const parallel::Schedule* schedule, ScheduleFor(microbatch_unit()));
  stage_by_index_.assign(num_stages, nullptr);
  for (const int stage : schedule->StagesOn(pipe_->rank())) {
    layouts_.push_back(std::make_unique<TapeLayout>());
    const BuildContext build{config_.model(),
                             rope_,
                             recompute,
                             exchange_.get(),
                             store_,
                             *layouts_.back(),
                             fp8_.has_value() ? &*fp8_ : nullptr};
    stages_.push_back(std::make_unique<TransformerStage>(build, specs[stage], ComputeDType(config_),
                                                         device_, *pool_, *layouts_.back()));
    if (config_.finetune().mode() == "lora") {
      RETURN_IF_ERROR(stages_.back()->AddAdapters(config_.finetune().lora(), store_));
    }
    if (config_.compute().keep_fp8_weights()) stages_.back()->KeepQuantized(store_);
    stage_by_index_[stage] = stages_.back().get();
  }
  return absl::OkStatus();
}

absl::Status RankModel::Allocate() {
  const ModelConfig& model = config_.model();
  const int64_t multiple_of[kNumParameterGroups] = {replicas(ParameterGroup::kDense).size(),
                                                    replicas(ParameterGroup::kExpert).size()};
  RETURN_IF_ERROR(store_.Allocate(device_, ComputeDType(config_), multiple_of));
  const int rotated = model.kv_lora_rank() > 0 ? model.qk_rope_head_dim() : model.head_dim();
  RETURN_IF_ERROR(rope_.Allocate(device_, model, rotated, config_.train().sequence_length()));
  for (auto& stage : stages_) RETURN_IF_ERROR(stage->Allocate());
  return absl::OkStatus();
}

absl::Status RankModel::CreateOptimizers() {
  ASSIGN_OR_RETURN(const ParameterRules rules, ParameterRules::Create(config_.train()));
  for (int g = 0; g < kNumParameterGroups; ++g) {
    const auto group = static_cast<ParameterGroup>(g);
    if (store_.flat_size(group) == 0) continue;
    std::vector<parallel::FlatSegment> segments;
    for (const auto& parameter : store_.parameters()) {
      if (parameter->group != group || !parameter->trained) continue;
      for (const NamedPiece& piece : parameter->pieces) {
        parallel::FlatSegment segment;
        segment.begin = parameter->offset + piece.offset;
        segment.end = segment.begin + piece.count;
        segment.decay = parameter->decay;
        segment.counted_in_norm = !parameter->tied_copy;
        rules.Apply(piece.name, segment);
        segments.push_back(segment);
      }
    }
    parallel::ShardedAdamWOptions options;
    options.moment_dtype = config_.train().moment_dtype() == "BF16" ? DType::kBF16 : DType::kF32;
    options.average_decay = static_cast<float>(config_.train().ema_decay());
    ASSIGN_OR_RETURN(optimizers_[g],
                     parallel::ShardedAdamW::Create(device_, replicas(group), store_.values(group),
                                                    store_.gradients(group), segments, options));
  }
  return absl::OkStatus();
}

absl::Status RankModel::ConnectPipe() {
  const parallel::Schedule& schedule = schedules_.front();
  std::vector<std::pair<int, int>> pairs;
  const auto connect = [&](int a, int b) { pairs.insert(pairs.end(), {{a, b}, {b, a}}); };
  for (const std::vector<int>& ranks : schedule.rank_of_stage) {
    for (size_t stage = 1; stage < ranks.size(); ++stage) connect(ranks[stage - 1], ranks[stage]);
  }
  const std::vector<int>& ranks = schedule.rank_of_stage[0];
  connect(ranks.front(), ranks.back());  // a tied embedding's gradients
  return pipe_->Connect(pairs);
}

absl::Status RankModel::InitializeWeights() {
  kernels::ThreadPool pool(
      device_.num_threads());  // of this moment: a GPU's host threads have nothing else
  const double deviation = config_.model().initializer_range();
  for (int g = 0; g < kNumParameterGroups; ++g) {
    parallel::ShardedAdamW* optimizer = optimizers_[g].get();
    if (optimizer == nullptr) continue;
    const int64_t begin = optimizer->shard_begin();
    std::vector<float> host(optimizer->shard_end() - begin, 0.0f);
    store_.ForEachRun(static_cast<ParameterGroup>(g), begin, optimizer->shard_end(),
                      [&](const Parameter& parameter, const NamedPiece& piece, int64_t named_begin,
                          int64_t flat_begin, int64_t count) {
                        const double its_own = parameter.initial_deviation;
                        InitialValues(pool, config_.train().seed(), piece.name, parameter.is_norm,
                                      its_own < 0 ? deviation : its_own, named_begin, count,
                                      host.data() + (flat_begin - begin));
                      });
    const TensorView master = optimizer->master();
    device_.Copy(ConstTensorView(host.data(), DType::kF32, master.shape()), master, stream());
    RETURN_IF_ERROR(stream().Synchronize());
    RETURN_IF_ERROR(optimizer->ResetAverage(stream()));
  }
  RETURN_IF_ERROR(InitializeFrozen(pool));
  return PublishWeights();
}

// Codes and scales have no initial values: they come from a checkpoint.
absl::Status RankModel::InitializeFrozen(kernels::ThreadPool& pool) {
  for (int g = 0; g < kNumParameterGroups; ++g) {
    const auto group = static_cast<ParameterGroup>(g);
    const Range mine = FrozenShard(group);
    if (mine.begin == mine.end) continue;
    std::vector<float> host(mine.end - mine.begin, 0.0f);
    store_.ForEachFrozenRun(group, FrozenAs::kValues, mine.begin, mine.end,
                            [&](const Parameter& parameter, const NamedPiece& piece,
                                int64_t named_begin, int64_t flat_begin, int64_t count) {
                              InitialValues(pool, config_.train().seed(), piece.name,
                                            parameter.is_norm, config_.model().initializer_range(),
                                            named_begin, count,
                                            host.data() + (flat_begin - mine.begin));
                            });
    const TensorView part = store_.frozen_values(group).Rows(mine.begin, mine.end - mine.begin);
    Temporary wide(*pool_, DType::kF32, part.shape());
    device_.Copy(ConstTensorView(host.data(), DType::kF32, part.shape()), wide.view(), stream());
    kernels::Cast(stream(), {.from = wide.view(), .to = part});
    RETURN_IF_ERROR(stream().Synchronize());
  }
  return absl::OkStatus();
}

RankModel::Range RankModel::FrozenShard(ParameterGroup group, FrozenAs as) {
  parallel::Communicator& ranks = replicas(group);
  const int64_t size = store_.frozen_values(group, as).num_elements() / ranks.size();
  return {size * ranks.rank(), size * (ranks.rank() + 1)};
}

absl::Status RankModel::PublishWeights() {
  for (auto& optimizer : optimizers_) {
    if (optimizer != nullptr) RETURN_IF_ERROR(optimizer->PublishMasters(stream()));
  }
  for (int g = 0; g < kNumParameterGroups; ++g) {
    const auto group = static_cast<ParameterGroup>(g);
    for (const FrozenAs as : {FrozenAs::kValues, FrozenAs::kCodes, FrozenAs::kScales}) {
      const TensorView frozen = store_.frozen_values(group, as);
      if (frozen.num_elements() == 0) continue;
      const Range mine = FrozenShard(group, as);
      RETURN_IF_ERROR(replicas(group).AllGather(frozen.Rows(mine.begin, mine.end - mine.begin),
                                                frozen, stream()));
    }
  }
  store_.CopyTrainedParts(stream());
  for (auto& stage : stages_) stage->Repack();
  return absl::OkStatus();
}

void RankModel::RepackTrained() {
  store_.CopyTrainedParts(stream());
  for (auto& stage : stages_) stage->RepackTrained();
}

absl::StatusOr<const parallel::Schedule*> RankModel::ScheduleFor(int num_microbatches) {
  for (const parallel::Schedule& schedule : schedules_) {
    if (schedule.num_microbatches == num_microbatches) return &schedule;
  }
  parallel::PipelineShape shape;
  shape.num_ranks = mesh_.size(parallel::Axis::kPipe);
  shape.num_microbatches = num_microbatches;
  shape.chunks = config_.schedule_chunks();
  ASSIGN_OR_RETURN(parallel::Schedule schedule, parallel::MakeSchedule(config_.schedule(), shape));
  schedules_.reserve(64);  // pointers stay valid; more than 64 batch sizes in one run do not happen
  CHECK_LT(schedules_.size(), 64u);
  schedules_.push_back(std::move(schedule));
  return &schedules_.back();
}

absl::Status RankModel::Run(const std::vector<MicrobatchInput>& inputs, const LossScales& scales,
                            bool training, SequenceSums* sums,
                            const std::function<absl::Status()>& before_first_backward) {
  ASSIGN_OR_RETURN(const parallel::Schedule* schedule,
                   ScheduleFor(static_cast<int>(inputs.size())));
  for (auto& stage : stages_) stage->BeginStep(&inputs, scales, training, sums);
  parallel::ExecuteOptions options;
  options.forward_only = !training;
  options.before_first_backward = before_first_backward;
  RETURN_IF_ERROR(parallel::Execute(*schedule, stage_by_index_, *pipe_, device_, options));
  pool_->Enter(kernels::StreamRole::kCompute);
  pool_->Settle();
  for (auto& stage : stages_) stage->FinishStep();
  return absl::OkStatus();
}

bool RankModel::is_first_replica(const TransformerStage& stage) const {
  for (size_t i = 0; i < stage_by_index_.size(); ++i) {
    if (stage_by_index_[i] != &stage) continue;
    return schedules_.front().rank_of_stage[0][i] == pipe_->rank();
  }
  return false;
}

bool RankModel::has_last_stage() const {
  return !stages_.empty() && stages_.back()->spec().has_head;
}

absl::Status RankModel::SumTiedGradients() {
  const ModelConfig& model = config_.model();
  const parallel::Schedule& schedule = schedules_.front();
  const int first = schedule.rank_of_stage[0].front(), last = schedule.rank_of_stage[0].back();
  const bool tied = model.tie_word_embeddings() || model.num_nextn_predict_layers() > 0;
  // Two replicas have both ends on one rank each.
  if (!tied || first == last || schedule.num_replicas() > 1) return absl::OkStatus();
  if (pipe_->rank() != first && pipe_->rank() != last) return absl::OkStatus();
  constexpr int kTag = 1 << 14;  // outside the pipeline's own tags
  Parameter* parameter = store_.Find("model.embed_tokens.weight");
  CHECK(parameter != nullptr) << "rank " << pipe_->rank() << " has no embedding";
  if (!parameter->trained) return absl::OkStatus();
  const TensorView gradient = parameter->gradient;
  if (pipe_->rank() == last) {
    RETURN_IF_ERROR(pipe_->Send(gradient, first, kTag, stream()));
    return pipe_->Receive(gradient, first, kTag, stream());
  }
  Temporary other(*pool_, DType::kF32, gradient.shape());
  RETURN_IF_ERROR(pipe_->Receive(other.view(), last, kTag, stream()));
  kernels::Add(stream(), {.a = gradient, .b = other.view(), .y = gradient});
  return pipe_->Send(gradient, last, kTag, stream());
}

}  // namespace sluice::trainer
