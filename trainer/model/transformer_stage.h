// A run of decoder layers on one rank as a pipeline stage, with the embedding before the first and
// the head after the last. Its phases are those of its layers, and one each for embedding and head.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "parallel/pipeline/stage.h"
#include "trainer/model/block.h"
#include "trainer/model/finetune.pb.h"
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

  // Before the store's Allocate: LoRA adapters for the modules that config.targets finds. As
  // LowRankAdapter::Create.
  absl::Status AddAdapters(const LoraConfig& config, ParameterStore& store);

  // Before the store's Allocate: frozen matrices that FP8 checkpoints quantise stay as they are
  // there.
  void KeepQuantized(ParameterStore& store);

  // After the store's Allocate: packed weights and the gates' state.
  absl::Status Allocate();
  // After the store's values changed: all of them, or those that an update changes.
  void Repack();
  void RepackTrained();

  // The microbatches of the next Execute; FinishStep adds their losses to `sums`. Everything
  // outlives FinishStep.
  void BeginStep(const std::vector<MicrobatchInput>* inputs, const LossScales& scales,
                 bool training, SequenceSums* sums);
  // After Execute, which synchronized the streams.
  void FinishStep();

  // Before the first backward of the step.
  void SetGlobalLoad(ConstTensorView global_load) { scales_.global_load = global_load; }

  int NumPhases() const override { return static_cast<int>(phases_.size()); }
  kernels::StreamRole RoleOf(int phase) const override { return phases_[phase].role; }
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
  const std::vector<Linear*>& linears() const { return linears_; }
  // Hears of the FP8 layers in the first microbatch of each step that trains, until set to null.
  void set_fp8_health(Fp8Health* health) { health_ = health; }
  // Hears of the rows of every token between modules, for parity reports; null costs nothing.
  // Forward: "embedding"; of layer i (MTP's follow the others) its "routes" and their "weights",
  // "middle" behind attention and "activation" behind the layer; "normed" and the token's "loss" of
  // the head, as layer num_hidden_layers - 1, and of MTP's. Backward: "d_middle", where it is kept,
  // and "gradient" of the layer's input; "head_gradient" of the last layer's output.
  using RowVisitor = std::function<void(const char* what, int layer, const MicrobatchInput&,
                                        ConstTensorView rows)>;
  void set_row_visitor(RowVisitor visitor) { row_visitor_ = std::move(visitor); }
  // Hears of every microbatch on the stage with the head, after its losses are computed
  // (generation, scoring).
  using HeadVisitor = std::function<void(const Context&, const HeadOutput&)>;
  void set_head_visitor(HeadVisitor visitor) { head_visitor_ = std::move(visitor); }

 private:
  enum class Part : uint8_t { kEmbedding, kBlock, kHead, kMtp };
  struct Phase {
    Part part;
    int index = 0, phase = 0;  // of the block or MTP module; of its phases
    kernels::StreamRole role = kernels::StreamRole::kCompute;
  };
  // A tensor on its way to the host, where it is added to sums over sequences.
  struct PendingRead {
    std::vector<char> bytes;
    const MicrobatchInput* batch = nullptr;
    std::vector<double>* sums = nullptr;
    int gate = -1;  // of the values of a gate, f64 by sequence; else losses, f32 by token
  };

  void BuildHead(const BuildContext& build, int first_moe);
  void ListPhases();
  // Whatever is enqueued with it goes to the stream of `role`.
  Context MakeContext(int microbatch, kernels::StreamRole role = kernels::StreamRole::kCompute);
  Tape& TapeOf(int microbatch);
  // After the last backward of a microbatch.
  void FinishTape(int microbatch);
  // Whatever is on it.
  void RecycleTape(int microbatch);
  absl::Status Visit(const char* what, int layer, const Context& context,
                     ConstTensorView rows) const;
  // What the attention phase of a block left.
  absl::Status VisitAttention(int layer, const Context& context, Block& block);
  absl::Status ForwardBlock(const Context& context, int index, int phase);
  absl::Status ForwardHead(const Context& context);
  absl::Status ForwardMtp(const Context& context, int depth, int phase);
  absl::Status BackwardBlock(const Context& context, int index, int phase);
  void BackwardHead(const Context& context);
  absl::Status BackwardMtp(const Context& context, int depth, int phase);
  ConstTensorView MtpInput(const Context& context, int depth) const;
  void ReadLater(const Context& context, ConstTensorView view, std::vector<double>& sums, int gate);
  void AddToSums(const PendingRead& read) const;
  void AddSums(const Context& context, ConstTensorView token_losses, std::vector<double>& sums);
  absl::Status ReadGateLosses(const Context& context, MoeLayer& layer);
  absl::Status ReadExpertShares(const Context& context, const Gate& gate);

  const ModelConfig& config_;
  const Fp8Options* fp8_;
  Fp8Health* health_ = nullptr;
  const StageSpec spec_;
  const DType dtype_;
  const int64_t hidden_;
  kernels::DeviceContext& device_;
  ActivationPool& pool_;
  TapeLayout& layout_;
  Stream& stream_;                  // of computing
  Parameter* embedding_ = nullptr;  // also on the stage with MTP
  std::vector<std::unique_ptr<Block>> blocks_;
  Parameter* final_norm_ = nullptr;
  std::unique_ptr<LmHead> head_;
  std::vector<std::unique_ptr<MtpModule>> mtp_;
  std::vector<Gate> gates_;
  std::vector<Linear*> linears_;
  std::vector<Phase> phases_;

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
  // In the order in which they were enqueued; they keep their memory from step to step.
  std::deque<PendingRead> pending_;
  size_t num_pending_ = 0;
};

}  // namespace sluice::trainer
