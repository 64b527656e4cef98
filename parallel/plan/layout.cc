#include "parallel/plan/layout.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::parallel {
namespace {

double BytesOf(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return 4;
    case Precision::kBf16:
      return 2;
    case Precision::kFp8:
      return 1;
  }
  return 2;
}
// Of activations between products: they stay BF16 beside FP8 products.
double WideBytes(Precision precision) { return std::max(2.0, BytesOf(precision)); }

// FP8 products read inputs that were quantised first: BF16 read, FP8 written. Gradients are
// quantised in both directions of tiles, inputs once more for the weight gradient (DeepSeek-V3
// report section 3.3 and figure 6).
constexpr double kQuantizeInput = 3, kQuantizeGradient = 4, kQuantizeForWeight = 2;
// With one scale a tensor: read for its largest element, read again, written in both orders, as
// Hopper's products of FP8 want one order only (Transformer Engine's documentation, "FP8 current
// scaling" and "Handling transposes"). Then the weight gradient finds its input ready.
constexpr double kQuantizeTensor = 6;
// A flash attention backward has 2.5 times the forward's products: Dao 2023 (arXiv 2307.08691).
constexpr double kCoreBackward = 2.5;

void Append(std::vector<Phase>& to, const std::vector<Phase>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

}  // namespace

std::string RecomputeChoice::ToString() const {
  if (everything) return "everything";
  std::string text;
  for (const auto& [on, name] :
       {std::pair(norms, "norm"), std::pair(mla_up, "mla_up"), std::pair(swiglu, "swiglu")}) {
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
                                                    HeadAlone allow) {
  const int layers = static_cast<int>(layer_seconds.size());
  if (num_stages < 1 || num_stages > layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("plan: found ", num_stages, ", wanted 1 to the number of layers = ", layers));
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
  for (int s = 1; s <= num_stages; ++s) {
    for (int end = s; end <= layers; ++end) {
      // The last stage may hold the head alone.
      const int last = s == num_stages && s > 1 && allow == HeadAlone::kAllowed ? end : end - 1;
      for (int begin = s - 1; begin <= last; ++begin) {
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

double LayoutCosts::QuantizeSeconds(double tile_bytes, double tensor_bytes, double elements,
                                    Precision precision) const {
  if (precision != Precision::kFp8) return 0;
  const Device& d = cluster_.device;
  return elements * (layout_.scaling == Fp8Scaling::kTiles ? tile_bytes : tensor_bytes) /
         (d.memory_bytes_per_second * d.memory_efficiency);
}

double LayoutCosts::Seconds(const Work& w, double count, double weights,
                            Precision precision) const {
  const Device& d = cluster_.device;
  const double narrow = BytesOf(precision), wide = WideBytes(precision);
  return count * w.product_flops / d.product_rate(precision) +
         (count * (w.in_elements * narrow + w.out_elements * wide) + weights * narrow) /
             d.memory_bytes_per_second +
         count * w.core_flops / (d.peak(Precision::kBf16) * d.core_forward_efficiency) +
         count * w.touched * wide / (d.memory_bytes_per_second * d.memory_efficiency) +
         QuantizeSeconds(kQuantizeInput, kQuantizeTensor, count * w.fresh_in, precision) +
         w.ops * d.op_seconds;
}

double LayoutCosts::BackwardSeconds(const Work& w, double count, double weights,
                                    Precision precision) const {
  const Device& d = cluster_.device;
  const double narrow = BytesOf(precision), wide = WideBytes(precision);
  return count * w.product_flops / d.product_rate(precision) +
         (count * (w.out_elements * narrow + w.in_elements * wide) + weights * narrow) /
             d.memory_bytes_per_second +
         count * kCoreBackward * w.core_flops /
             (d.peak(Precision::kBf16) * d.core_backward_efficiency) +
         count * 2 * w.touched * wide / (d.memory_bytes_per_second * d.memory_efficiency) +
         QuantizeSeconds(kQuantizeGradient, kQuantizeTensor, count * w.fresh_out, precision) +
         2 * w.ops * d.op_seconds;
}

// Gradients are accumulated in FP32: read and written.
double LayoutCosts::WeightSeconds(const Work& w, double count, double weights,
                                  Precision precision) const {
  const Device& d = cluster_.device;
  const double narrow = BytesOf(precision);
  return d.weight_factor(precision) *
             (count * w.product_flops / d.product_rate(precision) +
              (count * (w.in_elements + w.out_elements) * narrow + weights * 8) /
                  d.memory_bytes_per_second) +
         QuantizeSeconds(kQuantizeForWeight, 0, count * w.in_elements, precision) +
         w.ops * d.op_seconds / 2;
}

double LayoutCosts::ExchangeTime(double row_bytes) const {
  ExchangeShape shape;
  shape.group = {layout_.expert, 1};
  shape.ranks_per_node = cluster_.network.ranks_per_node;
  shape.tokens = static_cast<int64_t>(tokens_);
  shape.experts_per_token = model_.experts_per_token;
  // Groups of experts lie on nodes where they can: then a token's limit on groups is one on nodes.
  const int nodes = shape.group.nodes(shape.ranks_per_node);
  if (model_.group_limit > 0 && nodes > 1 && model_.groups % nodes == 0)
    shape.node_limit = std::max(1, model_.group_limit);
  shape.row_bytes = row_bytes;
  shape.kind = layout_.exchange;
  return ExchangeSeconds(shape, cluster_.network);
}

// Sequence-parallel tensor parallelism (Korthikanti et al. 2022): an all-gather before and a
// reduce-scatter after attention, the same again in backward, and keys and values round the
// context ring.
double LayoutCosts::TensorSeconds() const {
  const GroupShape group{layout_.tensor, 1};
  const double bytes =
      tokens_ * layout_.tensor * static_cast<double>(model_.hidden) * WideBytes(layout_.precision);
  double seconds = 2 * ReduceScatterSeconds(group, bytes, cluster_.network);
  if (layout_.context > 1) {
    const GroupShape ring{layout_.context, layout_.tensor};
    seconds += AllGatherSeconds(ring, tokens_ * layout_.context * model_.kv_elements * 2,
                                cluster_.network);
  }
  return seconds;
}

double LayoutCosts::GatherSeconds(const LayerWork& layer) const {
  if (layout_.zero < 3) return 0;
  const int data = layout_.data * layout_.context;
  const double dense = layer.dense_parameters * 2, expert = layer.expert_parameters * 2;
  return AllGatherSeconds({data, layout_.tensor}, dense / layout_.tensor, cluster_.network) +
         (layer.is_moe ? AllGatherSeconds({data * layout_.tensor / layout_.expert, layout_.expert},
                                          expert * local_experts_, cluster_.network)
                       : 0.0);
}

ChunkCost LayoutCosts::LayerCost(const LayerWork& layer) const {
  const Precision p = layout_.precision;
  const double tensor = layout_.tensor;
  ChunkCost cost;
  const auto compute = [](PhaseKind kind, double seconds, Growth growth = Growth::kFixed) {
    return Phase{kind, Lane::kCompute, seconds, growth};
  };
  const double tp = TensorSeconds();
  const double attention = Seconds(layer.attention, tokens_, layer.attention.weights / tensor, p);
  const double dense = Seconds(layer.dense, tokens_, layer.dense.weights / tensor, p);
  double attention_back =
      BackwardSeconds(layer.attention, tokens_, layer.attention.weights / tensor, p);
  const double dense_back = BackwardSeconds(layer.dense, tokens_, layer.dense.weights / tensor, p);
  const double local = layer.expert.weights * local_experts_;
  Work expert = layer.expert;
  if (layout_.dispatch == DispatchRows::kBf16)  // what arrives has yet to be quantised
    expert.fresh_in += static_cast<double>(model_.hidden);
  const double experts = layer.is_moe ? Seconds(expert, rows_, local, p) : 0.0;
  double experts_back = layer.is_moe ? BackwardSeconds(expert, rows_, local, p) : 0.0;
  if (layout_.recompute.everything) {
    attention_back += attention;
    experts_back += experts;
  } else if (layout_.recompute.mla_up) {
    attention_back += Seconds(layer.mla_up, tokens_, layer.mla_up.weights / tensor, p);
  }
  // Gathers of parameters are fetched ahead: what does not fit behind the layer shows.
  const double exposed_gather = std::max(0.0, GatherSeconds(layer) - attention - dense - experts);
  cost.forward = {compute(PhaseKind::kAttention, attention + exposed_gather)};
  cost.backward_input = {};
  if (tp > 0) cost.forward.push_back({PhaseKind::kOther, Lane::kComm, tp});
  if (layer.is_moe) {
    const double width = static_cast<double>(model_.hidden);
    const double dispatch =
        ExchangeTime(p == Precision::kFp8 && layout_.dispatch == DispatchRows::kAsProducts
                         ? width + width / 128 * 4
                         : width * WideBytes(p));
    const double combine = ExchangeTime(width * WideBytes(p));
    const auto comm = [](PhaseKind kind, double seconds) {
      return Phase{kind, Lane::kComm, seconds, Growth::kWithRows};
    };
    Append(cost.forward, {comm(PhaseKind::kDispatch, dispatch), compute(PhaseKind::kDense, dense),
                          compute(PhaseKind::kExperts, experts, Growth::kWithRows),
                          comm(PhaseKind::kCombine, combine)});
    // Backward of combine is a dispatch, of dispatch a combine.
    cost.backward_input = {comm(PhaseKind::kCombine, dispatch),
                           compute(PhaseKind::kDense, dense_back),
                           compute(PhaseKind::kExperts, experts_back, Growth::kWithRows),
                           comm(PhaseKind::kDispatch, combine)};
    if (layout_.recompute.everything) {
      cost.backward_input.insert(cost.backward_input.begin(),
                                 {comm(PhaseKind::kDispatch, dispatch + combine)});
    }
  } else {
    cost.forward.push_back(compute(PhaseKind::kDense, dense));
    cost.backward_input = {compute(PhaseKind::kDense, dense_back)};
  }
  cost.backward_weight.push_back(compute(
      PhaseKind::kDense, WeightSeconds(layer.dense, tokens_, layer.dense.weights / tensor, p)));
  if (layer.is_moe) {
    cost.backward_weight.push_back(compute(
        PhaseKind::kExperts, WeightSeconds(layer.expert, rows_, local, p), Growth::kWithRows));
  }
  const int before_attention =
      static_cast<int>(cost.backward_input.size()) - (layer.is_moe ? 1 : 0);
  cost.weight_after.assign(cost.backward_weight.size(), before_attention);
  if (tp > 0) cost.backward_input.push_back({PhaseKind::kOther, Lane::kComm, tp});
  cost.backward_input.push_back(compute(PhaseKind::kAttention, attention_back + exposed_gather));
  cost.backward_weight.push_back(
      compute(PhaseKind::kAttention,
              WeightSeconds(layer.attention, tokens_, layer.attention.weights / tensor, p)));
  cost.weight_after.push_back(static_cast<int>(cost.backward_input.size()));
  return cost;
}

namespace {

// `after` runs after `chunk` in forward and before it in backward.
void Chain(ChunkCost& chunk, const ChunkCost& after) {
  Append(chunk.forward, after.forward);
  ChunkCost joined = after;
  const int done = static_cast<int>(joined.backward_input.size());
  Append(joined.backward_input, chunk.backward_input);
  Append(joined.backward_weight, chunk.backward_weight);
  for (const int first : chunk.weight_after) joined.weight_after.push_back(done + first);
  chunk.backward_input = std::move(joined.backward_input);
  chunk.backward_weight = std::move(joined.backward_weight);
  chunk.weight_after = std::move(joined.weight_after);
}

}  // namespace

ChunkCost LayoutCosts::HeadCost() const {
  // The head is BF16 beside FP8 layers (DeepSeek-V3 report section 3.3.1).
  const Precision p = layout_.precision == Precision::kFp8 ? Precision::kBf16 : layout_.precision;
  const double weights = model_.head.weights / layout_.tensor;
  const auto phase = [](double seconds) {
    return std::vector<Phase>{{PhaseKind::kHead, Lane::kCompute, seconds}};
  };
  const double forward = Seconds(model_.head, tokens_, weights, p);
  const double input = BackwardSeconds(model_.head, tokens_, weights, p);
  const double weight = WeightSeconds(model_.head, tokens_, weights, p);
  ChunkCost head;
  if (layout_.head == HeadWork::kWithLoss) {
    head.forward = phase(forward + input + weight);
  } else {
    head.forward = phase(forward);
    head.backward_input = phase(input);
    head.backward_weight = phase(weight);
    head.weight_after = {1};
  }
  ChunkCost all = head;
  for (int depth = 0; depth < model_.mtp_depth; ++depth) {
    Chain(all, LayerCost(model_.mtp));
    Chain(all, head);
  }
  return all;
}

double LayoutCosts::LayerSeconds(const LayerWork& layer) const {
  const ChunkCost cost = LayerCost(layer);
  double seconds = 0;
  for (const std::vector<Phase>* phases :
       {&cost.forward, &cost.backward_input, &cost.backward_weight}) {
    for (const Phase& phase : *phases) seconds += phase.lane == Lane::kCompute ? phase.seconds : 0;
  }
  return seconds;
}

absl::StatusOr<std::vector<StageShare>> LayoutCosts::Split() const {
  std::vector<double> seconds;
  const LayerWork* previous = nullptr;
  for (const LayerWork& layer : model_.layers) {
    const bool same = previous != nullptr && previous->is_moe == layer.is_moe;
    seconds.push_back(same ? seconds.back() : LayerSeconds(layer));
    previous = &layer;
  }
  const ChunkCost head = HeadCost();
  double head_seconds = 0;
  for (const std::vector<Phase>* phases :
       {&head.forward, &head.backward_input, &head.backward_weight}) {
    for (const Phase& phase : *phases)
      head_seconds += phase.lane == Lane::kCompute ? phase.seconds : 0;
  }
  return SplitByCost(seconds, head_seconds, layout_.num_stages(), layout_.head_alone);
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

StepCosts LayoutCosts::Costs(const std::vector<StageShare>& stages,
                             const Schedule& schedule) const {
  StepCosts costs;
  const LayerWork* dense_layer = nullptr;
  const LayerWork* moe_layer = nullptr;
  for (const LayerWork& layer : model_.layers) (layer.is_moe ? moe_layer : dense_layer) = &layer;
  const ChunkCost dense = dense_layer != nullptr ? LayerCost(*dense_layer) : ChunkCost();
  const ChunkCost moe = moe_layer != nullptr ? LayerCost(*moe_layer) : ChunkCost();
  for (const StageShare& stage : stages) {
    ChunkCost chunk;
    for (int i = stage.first_layer; i < stage.first_layer + stage.num_layers; ++i)
      Chain(chunk, model_.layers[i].is_moe ? moe : dense);
    if (stage.has_head) Chain(chunk, HeadCost());
    costs.stages.push_back(std::move(chunk));
  }
  const int stride = layout_.data * layout_.tensor * layout_.context;
  const bool across = stride * layout_.pipe > cluster_.network.ranks_per_node;
  costs.message_seconds = MessageSeconds(
      across, tokens_ * static_cast<double>(model_.hidden) * WideBytes(layout_.precision),
      cluster_.network);
  costs.message_latency = MessageLatency(across, cluster_.network);
  costs.compute_factor_in_overlap =
      layout_.expert > 1 ? cluster_.device.compute_factor_in_overlap : 1.0;
  costs.overlap = layout_.overlap;
  for (int rank = 0; rank < schedule.num_ranks(); ++rank) {
    costs.tails.push_back(Tail(HeldBy(rank, stages, schedule), schedule));
  }
  return costs;
}

}  // namespace sluice::parallel
