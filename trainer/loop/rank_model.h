// What one rank holds of a run: its place in the mesh, its communicators, its stages with their
// parameters, its optimizers.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/expert/token_exchange.h"
#include "parallel/mesh/process_mesh.h"
#include "parallel/nccl/nccl_session.h"
#include "parallel/schedule/schedule.h"
#include "parallel/shard/sharded_adamw.h"
#include "trainer/loop/trainer.h"
#include "trainer/model/fp8.h"
#include "trainer/model/transformer_stage.h"

namespace sluice::trainer {

// What a step needs on the host and keeps for the next, so that it allocates nothing.
struct StepMemory {
  SequenceSums sums;
  std::vector<float> bias;  // [E] of one gate
};

class RankModel {
 public:
  // Builds the mesh, allocates everything; weights are zero until InitializeWeights or a
  // checkpoint. Collective. `world_size` ranks; with `world` null (dry run) nothing is allocated
  // and `rank` is the one described.
  static absl::StatusOr<std::unique_ptr<RankModel>> Create(const RunConfig& config,
                                                           const RankContext& rank);
  ~RankModel();

  // Masters from (seed, name, index), then everything derived from them.
  absl::Status InitializeWeights();
  // After masters were written, and this rank's part of the frozen values: values on all ranks,
  // packed weights.
  absl::Status PublishWeights();
  // After an update: the weights that it changed, packed.
  void RepackTrained();

  // Runs the schedule for `inputs` (one a microbatch). Collective over the pipe and, through the
  // experts, over data.
  absl::Status Run(const std::vector<MicrobatchInput>& inputs, const LossScales& scales,
                   bool training, SequenceSums* sums,
                   const std::function<absl::Status()>& before_first_backward = nullptr);
  // Makes both copies of a tied embedding's gradient their sum: first stage's, then last stage's.
  // Nothing where one rank holds both stages and so one tensor.
  absl::Status SumTiedGradients();

  const RunConfig& config() const { return config_; }
  const parallel::ProcessMesh& mesh() const { return mesh_; }
  int data_rank() const { return data_->rank(); }
  parallel::Communicator& world() { return *world_; }
  parallel::Communicator& data_group() { return *data_; }
  parallel::Communicator& pipe_group() { return *pipe_; }
  kernels::DeviceContext& device() { return device_; }
  Stream& stream() { return device_.stream(kernels::StreamRole::kCompute); }
  ParameterStore& store() { return store_; }
  ActivationPool& pool() { return *pool_; }
  StepMemory& step_memory() { return step_memory_; }
  // Null for a group without parameters.
  parallel::ShardedAdamW* optimizer(ParameterGroup group) {
    return optimizers_[static_cast<int>(group)].get();
  }
  // The ranks that hold the same parameters of a group.
  parallel::Communicator& replicas(ParameterGroup group) {
    return *optimizer_groups_[static_cast<int>(group)];
  }
  // This rank's equal part of the frozen elements of a group and kind: it stores and loads them.
  struct Range {
    int64_t begin = 0, end = 0;
  };
  Range FrozenShard(ParameterGroup group, FrozenAs as = FrozenAs::kValues);
  const std::vector<std::unique_ptr<TransformerStage>>& stages() const { return stages_; }
  // Of two replicas the one that stands for both where something is written once.
  bool is_first_replica(const TransformerStage& stage) const;
  // The rank of the pipe with the last stage of the first microbatch.
  int last_pipe_rank() const { return schedules_.front().rank_of_stage[0].back(); }
  // Microbatches that the schedule can run, and every multiple of them.
  int microbatch_unit() const {
    return parallel::MicrobatchUnit(config_.schedule(), mesh_.size(parallel::Axis::kPipe));
  }
  int num_gates() const { return num_gates_; }  // of the whole model
  bool has_last_stage() const;

 private:
  RankModel(const RunConfig& config, const RankContext& rank, const parallel::ProcessMesh& mesh);
  absl::Status StartNccl();
  absl::Status SplitCommunicators();
  // `ranks` for tensors of the device as well.
  absl::StatusOr<std::unique_ptr<parallel::Communicator>> ForDevice(
      std::unique_ptr<parallel::Communicator> ranks);
  absl::Status SplitOptimizerGroups();
  absl::Status BuildStages();
  absl::Status Allocate();
  absl::Status CreateOptimizers();
  // Names who sends to whom in the pipe.
  absl::Status ConnectPipe();
  absl::Status InitializeFrozen(kernels::ThreadPool& pool);
  absl::StatusOr<const parallel::Schedule*> ScheduleFor(int num_microbatches);

  const RunConfig config_;
  const RankContext rank_;
  const parallel::ProcessMesh mesh_;
  parallel::Communicator* world_;
  kernels::DeviceContext& device_;
  std::unique_ptr<parallel::NcclSession> nccl_;  // null: messages go through the host
  std::unique_ptr<parallel::Communicator> pipe_, data_, expert_, expert_data_;
  // Of a schedule with two replicas: the ranks of data_ (expert_data_) and of their mirror images.
  std::unique_ptr<parallel::Communicator> mirrored_[kNumParameterGroups];
  // The ranks that hold the same parameters, by group.
  parallel::Communicator* optimizer_groups_[kNumParameterGroups] = {};
  std::unique_ptr<ActivationPool> pool_;
  RopeTable rope_;
  std::unique_ptr<parallel::TokenExchange> exchange_;
  ParameterStore store_;
  std::vector<std::unique_ptr<TapeLayout>> layouts_;
  std::vector<std::unique_ptr<TransformerStage>> stages_;  // of this rank, ascending
  std::vector<parallel::Stage*> stage_by_index_;  // [stages of the pipeline], null elsewhere
  std::unique_ptr<parallel::ShardedAdamW> optimizers_[kNumParameterGroups];
  std::vector<parallel::Schedule> schedules_;  // one a number of microbatches seen
  const std::optional<Fp8Options> fp8_;
  StepMemory step_memory_;
  int num_gates_ = 0;
};

}  // namespace sluice::trainer
