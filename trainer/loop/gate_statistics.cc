#include "trainer/loop/gate_statistics.h"

#include <algorithm>
#include <fstream>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/core/status_macros.h"
#include "nlohmann/json.hpp"
#include "trainer/loop/evaluate.h"
#include "trainer/loop/run_state.h"
#include "trainer/loop/train_step.h"

namespace sluice::trainer {
namespace {

// Adds up what the gates of this rank do, by sequence.
class Recorder {
 public:
  Recorder(RankModel& model, std::vector<int> layers)
      : model_(model),
        layers_(std::move(layers)),
        experts_(model.config().model().n_routed_experts()) {}

  void Attach() {
    for (const auto& stage : model_.stages()) {
      stage->set_row_visitor([this](const char* what, int layer, const MicrobatchInput& input,
                                    ConstTensorView rows) { Hear(what, layer, input, rows); });
    }
  }
  void Detach() {
    for (const auto& stage : model_.stages()) stage->set_row_visitor(nullptr);
  }
  // For the next batch; lengths[s] tokens count of the sequences of this rank, from `first` on.
  void Begin(int64_t sequences, int64_t first, std::vector<int64_t> lengths) {
    first_ = first;
    lengths_ = std::move(lengths);
    const int64_t cells = sequences * static_cast<int64_t>(layers_.size()) * experts_;
    chosen_.assign(cells, 0);
    weight_.assign(cells, 0.0);
  }
  // Reduces over all ranks and adds to `use` in the order of the sequences.
  absl::Status AddTo(std::vector<GateUse>& use) {
    const Shape shape = {static_cast<int64_t>(chosen_.size())};
    RETURN_IF_ERROR(model_.world().AllReduce(TensorView(chosen_.data(), DType::kI64, shape),
                                             parallel::ReduceOp::kSum, model_.stream()));
    RETURN_IF_ERROR(model_.world().AllReduce(TensorView(weight_.data(), DType::kF64, shape),
                                             parallel::ReduceOp::kSum, model_.stream()));
    for (int64_t cell = 0; cell < shape[0]; ++cell) {
      GateUse& gate = use[cell / experts_ % static_cast<int64_t>(layers_.size())];
      gate.chosen[cell % experts_] += chosen_[cell];
      gate.weight[cell % experts_] += weight_[cell];
    }
    return absl::OkStatus();
  }

 private:
  void Hear(const std::string& what, int layer, const MicrobatchInput& input,
            ConstTensorView rows) {
    if (what == "routes")
      routes_.assign(rows.data<int32_t>(), rows.data<int32_t>() + rows.num_elements());
    if (what != "weights") return;
    const auto found = std::find(layers_.begin(), layers_.end(), layer);
    CHECK(found != layers_.end()) << "layer " << layer;
    const int64_t index = found - layers_.begin(), k = rows.extent(1);
    for (int64_t t = 0; t < input.num_tokens(); ++t) {
      const int64_t sequence = input.first_sequence + t / input.sequence_length;
      if (t % input.sequence_length >= lengths_[sequence - first_]) continue;
      const int64_t begin = (sequence * static_cast<int64_t>(layers_.size()) + index) * experts_;
      for (int64_t i = 0; i < k; ++i) {
        const int64_t cell = begin + routes_[t * k + i];
        chosen_[cell] += 1;
        weight_[cell] += rows.data<float>()[t * k + i];
      }
    }
  }

  RankModel& model_;
  const std::vector<int> layers_;
  const int64_t experts_;
  int64_t first_ = 0;
  std::vector<int64_t> lengths_, chosen_;
  std::vector<double> weight_;
  std::vector<int32_t> routes_;  // of the layer that is being heard
};

std::vector<double> SharesOf(const std::vector<double>& values) {
  const double total = std::accumulate(values.begin(), values.end(), 0.0);
  std::vector<double> shares = values;
  for (double& share : shares) share = total > 0 ? share / total : 0.0;
  return shares;
}

// Tokens of each sequence up to its last target, that one left out: it is no input.
std::vector<int64_t> CountedLengths(const HostBatch& batch, int64_t row) {
  std::vector<int64_t> lengths;
  for (size_t s = 0; s < batch.num_targets.size(); ++s) {
    int64_t length = batch.num_targets[s];
    if (!batch.is_target.empty()) {
      while (length > 0 && batch.is_target[s * row + length] == 0) --length;
    }
    lengths.push_back(length);
  }
  return lengths;
}

}  // namespace

std::vector<double> GateUse::GateShare() const { return SharesOf(weight); }
std::vector<double> GateUse::TokenShare() const {
  return SharesOf(std::vector<double>(chosen.begin(), chosen.end()));
}

absl::StatusOr<std::vector<GateUse>> MeasureGateUse(RankModel& model, const RunData& data,
                                                    int64_t batches) {
  const RunConfig& config = model.config();
  const ModelConfig& shape = config.model();
  if (shape.n_routed_experts() == 0) {
    return absl::InvalidArgumentError("experts: found a model without experts");
  }
  std::vector<GateUse> use;
  std::vector<int> layers;
  for (int layer = shape.first_k_dense_replace();
       layer < shape.num_hidden_layers() + shape.num_nextn_predict_layers(); ++layer) {
    GateUse gate;
    gate.layer = layer;
    gate.chosen.assign(shape.n_routed_experts(), 0);
    gate.weight.assign(shape.n_routed_experts(), 0.0);
    use.push_back(std::move(gate));
    layers.push_back(layer);
  }
  const int64_t per_batch = config.train().global_batch(),
                per_rank = per_batch / config.mesh().data(), mine = per_rank * model.data_rank();
  int64_t num_batches = (data.num_validation_sequences() + per_batch - 1) / per_batch;
  if (batches > 0) num_batches = std::min(num_batches, batches);
  DeviceBatch batch(model.device(), MakeValidationOptions(config, data));
  Recorder recorder(model, layers);
  recorder.Attach();
  absl::Status status;
  for (int64_t b = 0; b < num_batches && status.ok(); ++b) {
    HostBatch host;
    status =
        AgreeOnStatus(model.world(), data.ReadValidation(b * per_batch + mine, per_rank, &host));
    if (status.ok()) status = batch.Load(host, mine);
    if (!status.ok()) break;
    recorder.Begin(per_batch, mine, CountedLengths(host, config.train().sequence_length() + 1));
    status = EvaluateStep(model, batch, per_batch).status();
    if (status.ok()) status = recorder.AddTo(use);
  }
  recorder.Detach();
  RETURN_IF_ERROR(status);
  for (GateUse& gate : use) {
    gate.tokens = std::accumulate(gate.chosen.begin(), gate.chosen.end(), int64_t{0}) /
                  shape.num_experts_per_tok();
  }
  return use;
}

std::vector<int> ChooseExperts(const std::vector<double>& share, double fraction) {
  std::vector<int> order(share.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return share[a] > share[b]; });
  std::vector<int> chosen;
  double sum = 0;
  for (int expert : order) {
    if (sum >= fraction || share[expert] == 0) break;
    sum += share[expert];
    chosen.push_back(expert);
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

std::vector<LayerExperts> ChooseExperts(const std::vector<GateUse>& use, ExpertScore score,
                                        double fraction) {
  std::vector<LayerExperts> layers;
  for (const GateUse& gate : use) {
    LayerExperts layer;
    layer.set_layer(gate.layer);
    const auto share = score == ExpertScore::kGate ? gate.GateShare() : gate.TokenShare();
    for (int expert : ChooseExperts(share, fraction)) layer.add_experts(expert);
    layers.push_back(std::move(layer));
  }
  return layers;
}

std::string GateUseTable(const std::vector<GateUse>& use, const std::vector<LayerExperts>& chosen) {
  std::string table = absl::StrFormat("%5s  %9s  %9s  %9s  %6s  %s\n", "layer", "tokens",
                                      "gate sum", "token sum", "chosen", "experts (gate share)");
  for (size_t i = 0; i < use.size(); ++i) {
    const std::vector<double> gate = use[i].GateShare(), token = use[i].TokenShare();
    double gate_sum = 0, token_sum = 0;
    std::string experts;
    for (int e : chosen[i].experts()) {
      gate_sum += gate[e];
      token_sum += token[e];
      absl::StrAppendFormat(&experts, "%s%d (%.3f)", experts.empty() ? "" : " ", e, gate[e]);
    }
    absl::StrAppendFormat(&table, "%5d  %9d  %9.3f  %9.3f  %3d/%-3d  %s\n", use[i].layer,
                          use[i].tokens, gate_sum, token_sum, chosen[i].experts_size(), gate.size(),
                          experts);
  }
  return table;
}

std::string GateUseJson(const std::vector<GateUse>& use, const std::vector<LayerExperts>& chosen) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (size_t i = 0; i < use.size(); ++i) {
    nlohmann::ordered_json layer;
    layer["layer"] = use[i].layer;
    layer["tokens"] = use[i].tokens;
    layer["experts"] = std::vector<int>(chosen[i].experts().begin(), chosen[i].experts().end());
    layer["gate_share"] = use[i].GateShare();
    layer["token_share"] = use[i].TokenShare();
    layers.push_back(std::move(layer));
  }
  nlohmann::ordered_json report;
  report["layers"] = std::move(layers);
  return report.dump(1);
}

absl::StatusOr<std::vector<LayerExperts>> ReadExpertsFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    return absl::NotFoundError(absl::StrCat("finetune.experts_file: found no file ", path));
  }
  const nlohmann::json report = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  const auto wrong = [&](absl::string_view found) {
    return absl::InvalidArgumentError(absl::StrCat(
        "finetune.experts_file ", path, ": found ", found,
        ", wanted {\"layers\": [{\"layer\": 3, \"experts\": [0, 7]}, ...]} of sluice experts"));
  };
  if (!report.is_object() || !report.contains("layers") || !report["layers"].is_array()) {
    return wrong("no list \"layers\"");
  }
  std::vector<LayerExperts> layers;
  for (const auto& entry : report["layers"]) {
    if (!entry.is_object() || !entry.contains("layer") || !entry["layer"].is_number_integer() ||
        !entry.contains("experts") || !entry["experts"].is_array()) {
      return wrong(absl::StrCat("entry ", layers.size(), " without \"layer\" or \"experts\""));
    }
    LayerExperts layer;
    layer.set_layer(entry["layer"].get<int>());
    for (const auto& expert : entry["experts"]) {
      if (!expert.is_number_integer()) return wrong("an expert that is no whole number");
      layer.add_experts(expert.get<int>());
    }
    layers.push_back(std::move(layer));
  }
  return layers;
}

}  // namespace sluice::trainer
