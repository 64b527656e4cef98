#include "trainer/loop/train_step.h"

#include <array>
#include <chrono>
#include <cmath>
#include <functional>
#include <optional>
#include <span>

#include "kernels/core/philox.h"
#include "kernels/core/status_macros.h"
#include "kernels/ops/cast.h"
#include "trainer/optim/gate_bias.h"

namespace sluice::trainer {
namespace {

using parallel::ReduceOp;

absl::Status AllReduce(parallel::Communicator& ranks, std::span<double> values, Stream& stream) {
  if (values.empty()) return absl::OkStatus();
  return ranks.AllReduce(
      TensorView(values.data(), DType::kF64, {static_cast<int64_t>(values.size())}), ReduceOp::kSum,
      stream);
}

absl::Status AllReduce(parallel::Communicator& ranks, std::span<int64_t> values, Stream& stream) {
  if (values.empty()) return absl::OkStatus();
  return ranks.AllReduce(
      TensorView(values.data(), DType::kI64, {static_cast<int64_t>(values.size())}), ReduceOp::kSum,
      stream);
}

// Seconds since the call before.
class Lap {
 public:
  double Take() {
    const auto now = std::chrono::steady_clock::now();
    const std::chrono::duration<double> took = now - last_;
    last_ = now;
    return took.count();
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

double SumInOrder(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value;
  return sum;
}

struct TargetCounts {
  int64_t main = 0, mtp = 0;
};

// Integer counts over the global batch, known before any gradient is computed.
absl::StatusOr<TargetCounts> CountTargets(RankModel& model, const DeviceBatch& batch) {
  std::array<int64_t, 2> counts = {batch.num_targets(), batch.num_mtp_targets()};
  RETURN_IF_ERROR(AllReduce(model.data_group(), counts, model.stream()));
  return TargetCounts{counts[0], counts[1]};
}

LossScales MakeScales(const RunConfig& config, const TargetCounts& targets, int64_t sequences) {
  const double n = static_cast<double>(targets.main);
  const int depth = config.model().num_nextn_predict_layers();
  LossScales scales;
  // L_MTP = lambda / D * sum over depths of the mean; the depths together have targets.mtp tokens.
  if (depth > 0 && targets.mtp > 0) {
    scales.mtp =
        static_cast<float>(config.train().mtp_loss_weight() * n / static_cast<double>(targets.mtp));
  }
  scales.balance =
      static_cast<float>(config.model().aux_loss_alpha() * n / static_cast<double>(sequences));
  scales.z = static_cast<float>(config.model().router_z_loss_coef());
  return scales;
}

// Load-balancing loss as transformers computes it: E * sum_e f_e P_e over the tokens of all gates,
// f the choices and P the mean score share of expert e. f is constant in backward: this is the
// derivative by a token's share, times N: targets, which may be fewer than tokens.
std::vector<float> GlobalLoadScale(const RunConfig& config, const std::vector<int64_t>& load,
                                   int64_t tokens, int64_t num_targets) {
  const int64_t experts = config.model().n_routed_experts(),
                gates = static_cast<int64_t>(load.size()) / experts;
  std::vector<float> scale(experts);
  for (int64_t e = 0; e < experts; ++e) {
    int64_t chosen = 0;
    for (int64_t gate = 0; gate < gates; ++gate) chosen += load[gate * experts + e];
    const double f = static_cast<double>(chosen) / static_cast<double>(gates * tokens);
    scale[e] = static_cast<float>(config.model().router_aux_loss_coef() *
                                  static_cast<double>(experts) * f / static_cast<double>(gates) *
                                  (static_cast<double>(num_targets) / static_cast<double>(tokens)));
  }
  return scale;
}

double GlobalLoadLoss(const std::vector<float>& scale, const SequenceSums& sums,
                      int64_t num_targets) {
  double loss = 0;
  for (size_t i = 0; i < sums.expert_share.size(); ++i)
    loss += scale[i % scale.size()] * sums.expert_share[i];
  return loss / static_cast<double>(num_targets);
}

// Every rank gets every sequence's sums, then all add them up in the same order.
absl::Status ReduceLosses(RankModel& model, const TargetCounts& targets, int64_t sequences,
                          SequenceSums& sums, StepResult& result) {
  for (std::vector<double>* part :
       {&sums.loss, &sums.mtp_loss, &sums.balance, &sums.z, &sums.expert_share}) {
    RETURN_IF_ERROR(AllReduce(model.world(), *part, model.stream()));
  }
  const ModelConfig& config = model.config().model();
  result.num_targets = targets.main;
  result.loss = SumInOrder(sums.loss) / static_cast<double>(targets.main);
  result.mtp_loss =
      targets.mtp > 0 ? SumInOrder(sums.mtp_loss) / static_cast<double>(targets.mtp) : 0;
  result.balance_loss =
      config.aux_loss_alpha() * SumInOrder(sums.balance) / static_cast<double>(sequences);
  result.z_loss =
      config.router_z_loss_coef() * SumInOrder(sums.z) / static_cast<double>(targets.main);
  return absl::OkStatus();
}

uint64_t DropoutKey(uint64_t seed, int64_t update) {
  const auto words =
      Philox(PhiloxKey(seed, RandomPurpose::kDropout), static_cast<uint64_t>(update));
  return (uint64_t{words[1]} << 32) | words[0];
}

void ClearGradients(RankModel& model) {
  for (int group = 0; group < kNumParameterGroups; ++group) {
    const TensorView gradients = model.store().gradients(static_cast<ParameterGroup>(group));
    if (gradients.num_elements() > 0) kernels::Fill(model.stream(), gradients, 0);
  }
  for (const auto& stage : model.stages()) {
    for (const auto& gate : stage->gates()) kernels::Fill(model.stream(), gate.layer->counts(), 0);
  }
}

// Sum of squares of the whole gradient, each parameter once.
absl::StatusOr<double> ReduceGradients(RankModel& model) {
  RETURN_IF_ERROR(model.SumTiedGradients());
  double total = 0;
  for (int group = 0; group < kNumParameterGroups; ++group) {
    parallel::ShardedAdamW* optimizer = model.optimizer(static_cast<ParameterGroup>(group));
    if (optimizer == nullptr) continue;
    RETURN_IF_ERROR(optimizer->ReduceGradients(model.stream()));
    double squares = 0;
    RETURN_IF_ERROR(optimizer->SumSquares(model.stream(), &squares));
    total += squares;
  }
  RETURN_IF_ERROR(AllReduce(model.world(), std::span(&total, 1), model.stream()));
  return total;
}

absl::Status ReduceLoads(RankModel& model, std::vector<int64_t>& load) {
  const int64_t experts = model.config().model().n_routed_experts();
  load.assign(model.num_gates() * experts, 0);
  for (const auto& stage : model.stages()) {
    for (const auto& gate : stage->gates()) {
      const Shape shape = {experts};
      model.device().Copy(gate.layer->counts(),
                          TensorView(load.data() + gate.index * experts, DType::kI64, shape),
                          model.stream());
    }
  }
  RETURN_IF_ERROR(model.stream().Synchronize());
  return AllReduce(model.world(), load, model.stream());
}

absl::Status UpdateBias(RankModel& model, const std::vector<int64_t>& load) {
  const int64_t experts = model.config().model().n_routed_experts();
  const auto speed = model.config().finetune().update_gate_bias()
                         ? static_cast<float>(model.config().train().bias_update_speed())
                         : 0.0f;
  std::vector<float>& bias = model.step_memory().bias;
  bias.resize(experts);
  for (const auto& stage : model.stages()) {
    for (const auto& gate : stage->gates()) {
      if (!gate.layer->has_bias() || speed == 0) continue;
      const TensorView host(bias.data(), DType::kF32, {experts});
      model.device().Copy(gate.layer->bias(), host, model.stream());
      RETURN_IF_ERROR(model.stream().Synchronize());
      MoveGateBias(std::span(load).subspan(gate.index * experts, experts), speed, bias);
      model.device().Copy(host, gate.layer->bias(), model.stream());
      RETURN_IF_ERROR(model.stream().Synchronize());
    }
  }
  return absl::OkStatus();
}

absl::Status Update(RankModel& model, const StepOptions& options, const StepResult& result) {
  const TrainConfig& train = model.config().train();
  parallel::AdamWHyperparameters adam;
  double scale = 1.0 / static_cast<double>(result.num_targets);
  if (train.clip_norm() > 0 && result.grad_norm > train.clip_norm())
    scale *= train.clip_norm() / result.grad_norm;
  adam.gradient_scale = static_cast<float>(scale);
  adam.learning_rate = static_cast<float>(options.learning_rate);
  adam.beta1 = static_cast<float>(train.adam_beta1());
  adam.beta2 = static_cast<float>(train.adam_beta2());
  adam.eps = static_cast<float>(train.adam_eps());
  adam.weight_decay = static_cast<float>(train.weight_decay());
  adam.step = options.update;
  for (int group = 0; group < kNumParameterGroups; ++group) {
    parallel::ShardedAdamW* optimizer = model.optimizer(static_cast<ParameterGroup>(group));
    if (optimizer != nullptr) RETURN_IF_ERROR(optimizer->Step(adam, model.stream()));
  }
  model.RepackTrained();
  return UpdateBias(model, result.load);
}

}  // namespace

absl::StatusOr<StepResult> TrainStep(RankModel& model, const DeviceBatch& batch,
                                     const StepOptions& options) {
  StepResult result;
  Lap lap;
  SequenceSums& sums = model.step_memory().sums;
  const ModelConfig& config = model.config().model();
  const bool balances_globally = config.router_aux_loss_coef() != 0;
  const int64_t tokens = options.global_sequences * model.config().train().sequence_length();
  sums.Reset(options.global_sequences, model.num_gates(),
             balances_globally ? config.n_routed_experts() : 0);
  ASSIGN_OR_RETURN(const TargetCounts targets, CountTargets(model, batch));
  ClearGradients(model);
  result.seconds.update = lap.Take();
  std::vector<float> load_scale;
  std::optional<Temporary> load_on_device;
  const auto set_global_load = [&]() -> absl::Status {
    RETURN_IF_ERROR(ReduceLoads(model, result.load));
    load_scale = GlobalLoadScale(model.config(), result.load, tokens, targets.main);
    const Shape shape = {static_cast<int64_t>(load_scale.size())};
    model.pool().Enter(kernels::StreamRole::kCompute);
    load_on_device.emplace(model.pool(), DType::kF32, shape);
    model.device().Copy(ConstTensorView(load_scale.data(), DType::kF32, shape),
                        load_on_device->view(), model.stream());
    for (const auto& stage : model.stages()) stage->SetGlobalLoad(load_on_device->view());
    return absl::OkStatus();
  };
  LossScales scales = MakeScales(model.config(), targets, options.global_sequences);
  scales.dropout_key = DropoutKey(model.config().train().seed(), options.update);
  const std::function<absl::Status()> before =
      balances_globally ? set_global_load : std::function<absl::Status()>();
  for (const auto& stage : model.stages()) stage->set_fp8_health(options.fp8_health);
  const absl::Status ran = model.Run(batch.inputs(), scales, true, &sums, before);
  for (const auto& stage : model.stages()) stage->set_fp8_health(nullptr);
  RETURN_IF_ERROR(ran);
  result.seconds.pipeline = lap.Take();
  RETURN_IF_ERROR(ReduceLosses(model, targets, options.global_sequences, sums, result));
  if (balances_globally) {
    result.aux_loss = GlobalLoadLoss(load_scale, sums, targets.main);
  } else {
    RETURN_IF_ERROR(ReduceLoads(model, result.load));
  }
  ASSIGN_OR_RETURN(const double squares, ReduceGradients(model));
  result.grad_norm = std::sqrt(squares) / static_cast<double>(targets.main);
  result.skipped =
      !std::isfinite(result.loss) || !std::isfinite(result.mtp_loss) || !std::isfinite(squares);
  result.seconds.reduce = lap.Take();
  if (!result.skipped) RETURN_IF_ERROR(Update(model, options, result));
  RETURN_IF_ERROR(model.stream().Synchronize());
  result.seconds.update += lap.Take();
  return result;
}

absl::StatusOr<StepResult> EvaluateStep(RankModel& model, const DeviceBatch& batch,
                                        int64_t global_sequences, SequenceSums* by_sequence) {
  StepResult result;
  SequenceSums& sums = by_sequence == nullptr ? model.step_memory().sums : *by_sequence;
  sums.Reset(global_sequences, model.num_gates());
  ASSIGN_OR_RETURN(const TargetCounts targets, CountTargets(model, batch));
  RETURN_IF_ERROR(model.Run(batch.inputs(), LossScales(), false, &sums));
  RETURN_IF_ERROR(ReduceLosses(model, targets, global_sequences, sums, result));
  return result;
}

}  // namespace sluice::trainer
