#include "parallel/plan/layout.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::parallel {

std::string RecomputeChoice::ToString() const {
  if (everything) return "everything";
  std::string text;
  for (const auto& [on, name] : {std::pair(norms, "norm"), std::pair(mla_up, "mla_up"),
                                 std::pair(swiglu, "swiglu"), std::pair(moe, "moe")}) {
    if (on) absl::StrAppend(&text, text.empty() ? "" : ",", name);
  }
  return text.empty() ? "none" : text;
}

std::string Layout::ToString() const {
  std::string text = absl::StrCat("pipe ", pipe, " data ", data, " expert ", expert);
  if (tensor > 1) absl::StrAppend(&text, " tensor ", tensor);
  if (context > 1) absl::StrAppend(&text, " context ", context);
  absl::StrAppend(&text, " ", schedule);
  if (chunks > 1) absl::StrAppend(&text, " x", chunks);
  if (overlap == Overlap::kNeighbours) text += " overlapped";
  absl::StrAppend(&text, " micro ", microbatch, " x ", microbatches, " ",
                  std::string(NameOf(precision)), " zero ", zero, " recompute ",
                  recompute.ToString());
  return text;
}

absl::StatusOr<std::vector<StageShare>> SplitByCost(const std::vector<double>& layer_seconds,
                                                    double head_seconds, int num_stages,
                                                    EmptyEnds empty) {
  const int layers = static_cast<int>(layer_seconds.size());
  const int most = layers + static_cast<int>(empty);
  if (num_stages < 1 || num_stages > most) {
    return absl::InvalidArgumentError(
        absl::StrCat("stages: found ", num_stages, ", wanted 1 to ", most, ", as many as layers",
                     empty == EmptyEnds::kNone ? "" : " and ends that may be empty"));
  }
  std::vector<double> before(layers + 1, 0.0);
  for (int i = 0; i < layers; ++i) before[i + 1] = before[i] + layer_seconds[i];
  const auto cost = [&](int stage, int begin, int end) {
    return before[end] - before[begin] + (stage == num_stages ? head_seconds : 0.0);
  };
  // best[s][i]: smallest maximum over s stages that hold layers [0, i).
  const double never = std::numeric_limits<double>::infinity();
  std::vector<std::vector<double>> best(num_stages + 1, std::vector<double>(layers + 1, never));
  std::vector<std::vector<int>> cut(num_stages + 1, std::vector<int>(layers + 1, 0));
  best[0][0] = 0;
  const int first_empty = empty == EmptyEnds::kBoth && num_stages > 1 ? 1 : 0;
  for (int s = 1; s <= num_stages; ++s) {
    const bool may_be_empty = num_stages > 1 && ((s == 1 && first_empty == 1) ||
                                                 (s == num_stages && empty != EmptyEnds::kNone));
    for (int end = std::max(0, s - static_cast<int>(empty)); end <= layers; ++end) {
      const int last = may_be_empty ? end : end - 1;
      for (int begin = std::max(0, s - 1 - first_empty); begin <= last; ++begin) {
        const double worst = std::max(best[s - 1][begin], cost(s, begin, end));
        if (worst >= best[s][end]) continue;
        best[s][end] = worst;
        cut[s][end] = begin;
      }
    }
  }
  std::vector<StageShare> stages(num_stages);
  for (int s = num_stages, end = layers; s > 0; --s) {
    const int begin = cut[s][end];
    stages[s - 1] = {begin, end - begin, s == 1, s == num_stages};
    end = begin;
  }
  return stages;
}

LayoutCosts::LayoutCosts(const ModelWork& model, const Cluster& cluster, const Layout& layout)
    : model_(model), cluster_(cluster), layout_(layout) {
  tokens_ = static_cast<double>(model.sequence_length) * layout.microbatch /
            (layout.tensor * layout.context);
  rows_ = tokens_ * model.experts_per_token;
  local_experts_ = model.experts / std::max(1, layout.expert);
}

double LayoutCosts::DenseParameters(const StageShare& stage) const {
  double parameters = 0;
  for (int i = stage.first_layer; i < stage.first_layer + stage.num_layers; ++i)
    parameters += model_.layers[i].dense_parameters;
  if (stage.has_embedding) parameters += model_.embedding_parameters;
  if (stage.has_head) {
    parameters += model_.head_parameters + model_.mtp_depth * model_.mtp.dense_parameters;
    const bool copy = model_.mtp_depth > 0 || model_.tied_embedding;
    if (copy && !stage.has_embedding) parameters += model_.embedding_parameters;
  }
  return parameters / layout_.tensor;
}

double LayoutCosts::ExpertParameters(const StageShare& stage) const {
  double parameters = 0;
  for (int i = stage.first_layer; i < stage.first_layer + stage.num_layers; ++i) {
    if (model_.layers[i].is_moe) parameters += model_.layers[i].expert_parameters * local_experts_;
  }
  if (stage.has_head && model_.mtp.is_moe)
    parameters += model_.mtp_depth * model_.mtp.expert_parameters * local_experts_;
  return parameters;
}

LayoutCosts::Held LayoutCosts::HeldBy(int rank, const std::vector<StageShare>& stages,
                                      const Schedule& schedule) const {
  Held held;
  int first = 0, last = 0;
  for (const std::vector<int>& replica : schedule.rank_of_stage) {
    for (int stage = 0; stage < schedule.num_stages; ++stage) {
      if (replica[stage] != rank) continue;
      held.dense += DenseParameters(stages[stage]);
      held.expert += ExpertParameters(stages[stage]);
      for (int i = 0; i < stages[stage].num_layers; ++i)
        AddLayer(model_.layers[stages[stage].first_layer + i], held);
      if (stages[stage].has_head) {
        held.wide_weights += model_.head.weights / layout_.tensor;
        for (int depth = 0; depth < model_.mtp_depth; ++depth) AddLayer(model_.mtp, held);
      }
      first += stages[stage].has_embedding;
      last += stages[stage].has_head;
    }
  }
  const bool has_copy = model_.mtp_depth > 0 || model_.tied_embedding;
  if (has_copy && stages.size() > 1)
    held.dense -= std::min(first, last) * model_.embedding_parameters / layout_.tensor;
  return held;
}

// What the parameters of a layer are made of.
void LayoutCosts::AddLayer(const LayerWork& layer, Held& held) const {
  const double tensor = layout_.tensor;
  held.dense -= layer.bias_parameters / tensor;
  held.wide_weights += layer.wide_weights / tensor;
  held.narrow_weights +=
      (layer.attention.weights + layer.dense.weights - layer.wide_weights) / tensor;
  if (!layer.is_moe) return;
  held.narrow_weights += layer.expert.weights * local_experts_;
  held.state_bytes += layer.state_bytes;
}

int LayoutCosts::num_moe_layers(const StageShare& stage) const {
  int layers = stage.has_head && model_.mtp.is_moe ? model_.mtp_depth : 0;
  for (int i = stage.first_layer; i < stage.first_layer + stage.num_layers; ++i)
    layers += model_.layers[i].is_moe;
  return layers;
}

double LayoutCosts::dense_shards(const Schedule& schedule) const {
  return static_cast<double>(layout_.data) * layout_.context *
         static_cast<double>(schedule.rank_of_stage.size());
}

double LayoutCosts::expert_shards(const Schedule& schedule) const {
  return static_cast<double>(layout_.data) * layout_.context * layout_.tensor / layout_.expert *
         static_cast<double>(schedule.rank_of_stage.size());
}

TailCost LayoutCosts::Tail(const Held& held, const Schedule& schedule) const {
  TailCost tail;
  const double dense = held.dense, expert = held.expert;
  const auto shards_d = dense_shards(schedule), shards_e = expert_shards(schedule);
  const Network& network = cluster_.network;
  const auto reduce = [&](double shards, int stride, double bytes) {
    return ReduceScatterSeconds({static_cast<int>(shards), stride}, bytes, network);
  };
  const auto gather = [&](double shards, int stride, double bytes) {
    return AllGatherSeconds({static_cast<int>(shards), stride}, bytes, network);
  };
  if (!layout_.overlap_gradients) {
    // From stage 2 on no rank holds whole gradients: they are reduced after each microbatch.
    const int asked = layout_.gradient_reductions;
    const int times = layout_.zero < 2 ? 1 : asked > 0 ? asked : layout_.microbatches;
    tail.reduce_gradients = times * (reduce(shards_d, layout_.tensor, dense * 4) +
                                     reduce(shards_e, layout_.expert, expert * 4));
    if (layout_.zero == 0) {  // an all-reduce; every rank then updates everything
      tail.gather_parameters = tail.reduce_gradients;
    } else if (layout_.zero < 3) {
      const double bytes = WideBytes(layout_.precision);
      tail.gather_parameters = gather(shards_d, layout_.tensor, dense * bytes) +
                               gather(shards_e, layout_.expert, expert * bytes);
    }
  }
  // Master and moments read and written, gradient read, value written.
  const double bytes = 2 * (4 + 2.0 * layout_.moment_bytes) + 4 + WideBytes(layout_.precision);
  const Device& device = cluster_.device;
  const double rate = device.optimizer_parameters_per_second > 0
                          ? device.optimizer_parameters_per_second
                          : device.memory_bytes_per_second * device.memory_efficiency / bytes;
  tail.optimizer =
      (layout_.zero == 0 ? dense + expert : dense / shards_d + expert / shards_e) / rate;
  if (device.cleared_parameters_per_second > 0)
    tail.optimizer += (dense + expert) / device.cleared_parameters_per_second;
  if (device.packed_parameters_per_second > 0)
    tail.optimizer +=
        (held.narrow_weights + held.wide_weights) / device.packed_parameters_per_second;
  return tail;
}

}  // namespace sluice::parallel
