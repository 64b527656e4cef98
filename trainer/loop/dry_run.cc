// Parameters, memory and mesh of a run that is not started: the same modules are built, nothing is
// allocated.
#include <cstdlib>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "kernels/core/status_macros.h"
#include "kernels/ops/matmul.h"
#include "parallel/mesh/process_mesh.h"
#include "trainer/loop/parameter_count.h"
#include "trainer/loop/product_table.h"
#include "trainer/loop/resolve_config.h"
#include "trainer/loop/stage_map.h"
#include "trainer/loop/trainer.h"
#include "trainer/model/finetune.h"
#include "trainer/model/transformer_stage.h"

namespace sluice::trainer {
namespace {

// Knows which experts are local, and nothing else.
class LocalExperts : public parallel::TokenExchange {
 public:
  LocalExperts(int first, int count) : first_(first), count_(count) {}
  int num_local_experts() const override { return count_; }
  int first_local_expert() const override { return first_; }
  absl::Status Plan(ConstTensorView, Stream&, parallel::ExchangePlan&) override { return Never(); }
  absl::Status Dispatch(const parallel::ExchangePlan&, ConstTensorView, TensorView,
                        Stream&) override {
    return Never();
  }
  absl::Status Combine(const parallel::ExchangePlan&, ConstTensorView, ConstTensorView,
                       ConstTensorView, TensorView, TensorView, Stream&) override {
    return Never();
  }
  absl::Status CombineBackward(const parallel::ExchangePlan&, ConstTensorView, TensorView,
                               ConstTensorView, TensorView, TensorView, Stream&) override {
    return Never();
  }
  absl::Status DispatchBackward(const parallel::ExchangePlan&, ConstTensorView, ConstTensorView,
                                TensorView, Stream&) override {
    return Never();
  }

 private:
  static absl::Status Never() { return absl::InternalError("a dry run exchanges nothing"); }
  const int first_, count_;
};

// The modules of consecutive stages, as one rank would hold them.
struct Built {
  ParameterStore store;
  RopeTable rope;
  std::unique_ptr<kernels::DeviceContext> device;
  std::unique_ptr<ActivationPool> pool;
  std::unique_ptr<LocalExperts> exchange;
  std::vector<std::unique_ptr<TapeLayout>> layouts;
  std::vector<std::unique_ptr<TransformerStage>> stages;
};

absl::StatusOr<std::unique_ptr<Built>> Build(const RunConfig& config,
                                             const std::vector<StageSpec>& specs,
                                             int num_local_experts) {
  const FinetuneConfig& finetune = config.finetune();
  auto built = std::make_unique<Built>();
  ASSIGN_OR_RETURN(auto is_trained, MakeIsTrained(finetune));
  built->store.set_is_trained(std::move(is_trained));
  ASSIGN_OR_RETURN(built->device, kernels::DeviceContext::Create({}));
  built->pool = std::make_unique<ActivationPool>(
      *built->device, [](const absl::Status&) {}, nullptr);
  built->exchange = std::make_unique<LocalExperts>(0, num_local_experts);
  for (const StageSpec& spec : specs) {
    built->layouts.push_back(std::make_unique<TapeLayout>());
    const BuildContext build{config.model(),        built->rope,  {},
                             built->exchange.get(), built->store, *built->layouts.back()};
    built->stages.push_back(std::make_unique<TransformerStage>(
        build, spec, DType::kF32, *built->device, *built->pool, *built->layouts.back()));
    if (finetune.mode() == "lora") {
      RETURN_IF_ERROR(built->stages.back()->AddAdapters(finetune.lora(), built->store));
    }
    if (config.compute().keep_fp8_weights()) built->stages.back()->KeepQuantized(built->store);
  }
  return built;
}

absl::StatusOr<std::unique_ptr<Built>> BuildWhole(const RunConfig& config, int num_local_experts) {
  ASSIGN_OR_RETURN(const std::vector<StageSpec> whole, SplitLayers(config.model(), 1, 1));
  return Build(config, whole, num_local_experts);
}

std::vector<const Linear*> LinearsOf(const Built& built) {
  std::vector<const Linear*> linears;
  for (const auto& stage : built.stages) {
    linears.insert(linears.end(), stage->linears().begin(), stage->linears().end());
  }
  return linears;
}

struct Bytes {
  double parameters = 0, gradients = 0, optimizer = 0;
  double total() const { return parameters + gradients + optimizer; }
};

// `copies`: ranks of the pipe that hold the same stages and share their optimizer state.
Bytes BytesOf(const Built& built, const RunConfig& config, int copies) {
  const bool bf16 = config.compute().precision() != "FP32";
  const double value = bf16 ? 2 : 4, moments = config.train().moment_dtype() == "BF16" ? 4 : 8;
  const double average = config.train().ema_decay() > 0 ? 4 : 0;
  const double data = config.mesh().data() * copies, expert_data = data / config.mesh().expert();
  std::set<const Parameter*> packed, fp8;  // of products; what is looked up is not packed
  for (const auto& stage : built.stages) {
    for (const Linear* linear : stage->linears()) {
      packed.insert(&linear->weight());
      if (linear->may_be_fp8()) fp8.insert(&linear->weight());
    }
  }
  Bytes bytes;
  for (const auto& parameter : built.store.parameters()) {
    const double n = static_cast<double>(parameter->shape.num_elements());
    if (parameter->frozen_as != FrozenAs::kValues) {
      bytes.parameters += n * (parameter->frozen_as == FrozenAs::kCodes ? 1 : 4);
      continue;
    }
    const double shards = parameter->group == ParameterGroup::kDense ? data : expert_data;
    // As gathered, then packed for forward and for backward, or in FP8 a byte and the scales each.
    const double copies = config.compute().precision() == "FP8" && fp8.contains(parameter.get())
                              ? 2 * (n + 4 * static_cast<double>(NumFp8Scales(*parameter)))
                              : 2 * n * value;
    bytes.parameters += n * value + (packed.contains(parameter.get()) ? copies : 0);
    if (!parameter->trained) continue;
    bytes.gradients += n * 4;
    bytes.optimizer += n * (moments + (bf16 ? 4 : 0) + average) / shards;
  }
  return bytes;
}

}  // namespace

absl::StatusOr<ParameterCounts> CountParameters(const ModelConfig& model) {
  RunConfig alone;
  *alone.mutable_model() = model;
  ASSIGN_OR_RETURN(const auto built, BuildWhole(alone, model.n_routed_experts()));
  ParameterCounts counts;
  for (const auto& parameter : built->store.parameters()) {
    const int64_t n = parameter->shape.num_elements();
    const std::string& name = parameter->pieces[0].name;
    int layer = -1;
    if (absl::string_view rest = name; absl::ConsumePrefix(&rest, "model.layers.")) {
      layer = std::atoi(std::string(rest).c_str());
    }
    if (layer >= model.num_hidden_layers()) {
      counts.mtp += n;
      continue;
    }
    counts.total += n;
    const bool expert = parameter->group == ParameterGroup::kExpert;
    counts.active += expert ? n / model.n_routed_experts() * model.num_experts_per_tok() : n;
  }
  for (const auto& stage : built->stages) {
    for (const auto& gate : stage->gates()) {
      if (!gate.layer->has_bias()) continue;
      const bool mtp = gate.index >= model.num_hidden_layers() - model.first_k_dense_replace();
      (mtp ? counts.mtp : counts.total) += model.n_routed_experts();
      if (!mtp) counts.active += model.n_routed_experts();
    }
  }
  return counts;
}

absl::Status CheckLibraries(const RunConfig& config) {
  const ComputeConfig& compute = config.compute();
  if (compute.matmul_kernels() != "cublaslt" && compute.attention_kernels() != "cudnn") {
    return absl::OkStatus();
  }
  const int local_experts = config.model().n_routed_experts() / config.mesh().expert();
  ASSIGN_OR_RETURN(const auto built, BuildWhole(config, local_experts));
  return CheckLibraries(config, LinearsOf(*built));
}

absl::StatusOr<std::string> DryRun(const RunConfig& config, int world_size) {
  ASSIGN_OR_RETURN(const ParameterCounts counts, CountParameters(config.model()));
  const parallel::MeshShape shape{config.mesh().pipe(), config.mesh().data(),
                                  config.mesh().expert()};
  ASSIGN_OR_RETURN(const auto mesh, parallel::ProcessMesh::Create(shape, world_size));
  ASSIGN_OR_RETURN(const std::vector<StageSpec> stages, StageMap(config));
  parallel::PipelineShape pipeline;
  pipeline.num_ranks = shape.pipe;
  pipeline.num_microbatches = parallel::MicrobatchUnit(config.schedule(), shape.pipe);
  pipeline.chunks = config.schedule_chunks();
  ASSIGN_OR_RETURN(const parallel::Schedule schedule,
                   parallel::MakeSchedule(config.schedule(), pipeline));
  std::string text =
      absl::StrFormat("parameters %d (active per token %d), MTP %d\nmesh %s, schedule %s\n",
                      counts.total, counts.active, counts.mtp, mesh.ToString(), config.schedule());
  absl::StrAppend(&text, StageTable(config, stages, schedule));
  absl::StrAppend(&text, "state of a rank, MiB (activations come on top):\n");
  absl::StrAppendFormat(&text, "  %4s  %-20s %12s %12s %12s %12s\n", "pipe", "layers", "parameters",
                        "gradients", "optimizer", "total");
  const int local_experts = config.model().n_routed_experts() / shape.expert;
  for (int rank = 0; rank < shape.pipe; ++rank) {
    std::vector<StageSpec> mine;
    for (const int stage : schedule.StagesOn(rank)) mine.push_back(stages[stage]);
    ASSIGN_OR_RETURN(const auto built, Build(config, mine, local_experts));
    const Bytes bytes = BytesOf(*built, config, schedule.num_replicas());
    std::string layers;
    for (const StageSpec& spec : mine) {
      absl::StrAppend(&layers, layers.empty() ? "" : " ", ToText(spec));
    }
    const double mib = 1048576.0;
    absl::StrAppendFormat(&text, "  %4d  %-20s %12.1f %12.1f %12.1f %12.1f\n", rank, layers,
                          bytes.parameters / mib, bytes.gradients / mib, bytes.optimizer / mib,
                          bytes.total() / mib);
  }
  if (config.compute().device() == "cuda") {
    ASSIGN_OR_RETURN(const auto built, BuildWhole(config, local_experts));
    RETURN_IF_ERROR(CheckLibraries(config, LinearsOf(*built)));
    text += ProductTable(config, LinearsOf(*built));
  }
  return text;
}

}  // namespace sluice::trainer
