// A run of decoder layers on one rank as a pipeline stage, with the embedding before the first and
// the head after the last.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "parallel/pipeline/stage.h"
#include "trainer/model/block.h"
#include "trainer/model/lm_head.h"
#include "trainer/model/model_config.h"
#include "trainer/model/mtp.h"

namespace sluice::trainer {

// Sums over tokens, one number for each sequence of the global batch, in token order in FP64.
// Entries of sequences or layers that live on other ranks are 0, so that an all-reduce gives every
// rank all of them exactly.   B sequences, M gates (MoE layers)
struct SequenceSums {
  std::vector<double> loss;      // [B] main cross-entropy
  std::vector<double> mtp_loss;  // [B] cross-entropy of all MTP depths
  std::vector<double> balance;   // [B * M] sequence-wise balance loss without alpha
  std::vector<double> z;         // [B * M] squared log-sum-exps
  // [B * M * E] sums of score / (sum of the token's scores); only where the load-balancing loss
  // over the global batch is on.
  std::vector<double> expert_share;
  int num_gates = 0, num_experts = 0;
  // num_experts 0: expert_share stays empty.
  void Reset(int64_t sequences, int gates, int num_experts = 0);
};

// What the head of a microbatch produced, on the device.
struct HeadOutput {
  ConstTensorView hidden;  // [T, H] after the final norm
  ConstTensorView loss;    // [T] f32, main cross-entropy of each token
  LmHead* head = nullptr;
};

class TransformerStage : public parallel::Stage {
 public:
  // Adds its parameters to build.store. `pool` and what build refers to outlive it.
  TransformerStage(const BuildContext& build, const StageSpec& spec, DType dtype,
                   kernels::DeviceContext& device, ActivationPool& pool, TapeLayout& layout);

  // After the store's Allocate: packed weights and the gates' state.
  absl::Status Allocate();
  // After the store's values changed.
  void Repack();

  // The microbatches of the next Execute; `sums` receives their losses. Everything outlives the
  // Execute.
  void BeginStep(const std::vector<MicrobatchInput>* inputs, const LossScales& scales,
                 bool training, SequenceSums* sums);

  // Before the first backward of the step.
  void SetGlobalLoad(ConstTensorView global_load) { scales_.global_load = global_load; }

  int NumPhases() const override { return 1; }
  kernels::StreamRole RoleOf(int /*phase*/) const override { return kernels::StreamRole::kCompute; }
  absl::Status Forward(int microbatch, int phase) override;
  absl::Status BackwardInput(int microbatch, int phase) override;
  absl::Status BackwardWeight(int microbatch, int phase) override;
  absl::StatusOr<TensorView> InputActivation(int microbatch) override;
  absl::StatusOr<TensorView> OutputGradient(int microbatch) override;
  ConstTensorView OutputActivation(int microbatch) override;
  ConstTensorView InputGradient(int microbatch) override;
  void ReleaseOutputActivation(int microbatch) override;
  void ReleaseInputGradient(int microbatch) override;

  struct Gate {
    MoeLayer* layer;
    int index;  // among all MoE layers of the model, MTP's last
  };
  const std::vector<Gate>& gates() const { return gates_; }
  const StageSpec& spec() const { return spec_; }
  // Hears of every microbatch on the stage with the head, after its losses are computed
  // (generation, scoring).
  // Hears of every row that crosses a layer: "activation" and "routes" of layer i after its
  // forward, "gradient" of its input after its backward. For parity reports; null costs nothing.
  using RowVisitor = std::function<void(const char* what, int layer, const MicrobatchInput&,
                                        ConstTensorView rows)>;
  void set_row_visitor(RowVisitor visitor) { row_visitor_ = std::move(visitor); }
  using HeadVisitor = std::function<void(const Context&, const HeadOutput&)>;
  void set_head_visitor(HeadVisitor visitor) { head_visitor_ = std::move(visitor); }

 private:
  Context MakeContext(int microbatch);
  Tape& TapeOf(int microbatch);
  void RecycleTape(int microbatch);
  void Visit(const char* what, int layer, const Context& context, ConstTensorView rows) const;
  absl::Status ForwardHead(const Context& context, ConstTensorView x);
  absl::Status BackwardHead(const Context& context, ConstTensorView x, TensorView dx);
  void BackwardHeadWeight(const Context& context, ConstTensorView x);
  ConstTensorView MtpInput(const Context& context, ConstTensorView x, int depth) const;
  absl::Status AddSums(const Context& context, ConstTensorView token_losses,
                       std::vector<double>& sums);
  absl::Status ReadGateLosses(const Context& context);
  absl::Status ReadExpertShares(const Context& context, const Gate& gate);
  absl::Status ToHost(ConstTensorView view, void* host);

  const ModelConfig& config_;
  const StageSpec spec_;
  const DType dtype_;
  const int64_t hidden_;
  kernels::DeviceContext& device_;
  ActivationPool& pool_;
  TapeLayout& layout_;
  Stream& stream_;
  Parameter* embedding_ = nullptr;  // also on the stage with MTP
  std::vector<std::unique_ptr<Block>> blocks_;
  Parameter* final_norm_ = nullptr;
  std::unique_ptr<LmHead> head_;
  std::vector<std::unique_ptr<MtpModule>> mtp_;
  std::vector<Gate> gates_;
  std::vector<Linear*> linears_;

  std::vector<SlotId> x_, d_;  // inputs of the blocks and of what follows; their gradients
  SlotId normed_, final_rms_, d_normed_, loss_;
  std::vector<SlotId> d_mtp_;  // gradient of each MTP module's input

  const std::vector<MicrobatchInput>* inputs_ = nullptr;
  LossScales scales_;
  bool training_ = true;
  SequenceSums* sums_ = nullptr;
  HeadVisitor head_visitor_;
  RowVisitor row_visitor_;
  std::vector<std::unique_ptr<Tape>> active_, spare_;
  std::vector<bool> weights_done_;
};

}  // namespace sluice::trainer
