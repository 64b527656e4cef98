// The price list of a layout: seconds of products, attention, exchanges, layers and stages.
#include <algorithm>
#include <utility>

#include "parallel/plan/layout.h"

namespace sluice::parallel {
namespace {

// FP8 products read inputs that were quantised first: BF16 read, FP8 written. Gradients are
// quantised in both directions of tiles, inputs once more for the weight gradient (DeepSeek-V3
// report section 3.3 and figure 6).
constexpr double kQuantizeInput = 3, kQuantizeGradient = 4, kQuantizeForWeight = 2;
// What is quantised where it is computed is neither written in BF16 nor read again.
constexpr double kQuantizeFused = -4;
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
  const double narrow = NarrowBytes(precision), wide = WideBytes(precision);
  return count * w.product_flops / d.product_rate(precision) +
         (count * (w.in_elements * narrow + w.out_elements * wide) + weights * narrow) /
             d.memory_bytes_per_second +
         count * w.core_flops / (d.peak(Precision::kBf16) * d.core_forward_efficiency) +
         count * w.touched * wide / (d.memory_bytes_per_second * d.memory_efficiency) +
         QuantizeSeconds(kQuantizeInput, kQuantizeTensor, count * w.fresh_in, precision) +
         QuantizeSeconds(kQuantizeFused, 0, count * w.fused_in, precision) +
         w.ops * d.op_seconds;
}

double LayoutCosts::BackwardSeconds(const Work& w, double count, double weights,
                                    Precision precision) const {
  const Device& d = cluster_.device;
  const double narrow = NarrowBytes(precision), wide = WideBytes(precision);
  return count * w.product_flops / d.product_rate(precision) +
         (count * (w.out_elements * narrow + w.in_elements * wide) + weights * narrow) /
             d.memory_bytes_per_second +
         count * kCoreBackward * w.core_flops /
             (d.peak(Precision::kBf16) * d.core_backward_efficiency) +
         count * 2 * w.touched * wide / (d.memory_bytes_per_second * d.memory_efficiency) +
         QuantizeSeconds(kQuantizeGradient, kQuantizeTensor, count * w.fresh_out, precision) +
         QuantizeSeconds(kQuantizeFused, 0, count * w.fused_out, precision) +
         2 * w.ops * d.op_seconds;
}

// Gradients are accumulated in FP32: read and written.
double LayoutCosts::WeightSeconds(const Work& w, double count, double weights,
                                  Precision precision) const {
  const Device& d = cluster_.device;
  const double narrow = NarrowBytes(precision);
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

// Parts of a layer's forward that backward runs once more, before the gradients that need them.
LayoutCosts::Again LayoutCosts::AgainOf(const LayerWork& layer, const ForwardTimes& forward) const {
  const RecomputeChoice& r = layout_.recompute;
  if (r.everything) return {forward, forward.dispatch + forward.combine, forward.tensor};
  const Precision p = layout_.precision;
  Again again;
  if (r.norms) again.compute.attention += Seconds(layer.norms, tokens_, 0, p);
  if (r.mla_up) {
    again.compute.attention +=
        Seconds(layer.mla_up, tokens_, layer.mla_up.weights / layout_.tensor, p);
  }
  if (r.moe && layer.is_moe) {
    again.compute.dense = forward.dense;
    again.compute.experts = forward.experts;
    again.exchange = forward.dispatch + forward.combine;
  } else if (r.swiglu) {
    again.compute.dense += Seconds(layer.swiglu, tokens_, 0, p);
    if (layer.is_moe) again.compute.experts += Seconds(layer.expert_swiglu, rows_, 0, p);
  }
  return again;
}

LayoutCosts::ForwardTimes LayoutCosts::ForwardOf(const LayerWork& layer) const {
  const Precision p = layout_.precision;
  const double tensor = layout_.tensor, width = static_cast<double>(model_.hidden);
  ForwardTimes times;
  times.attention = Seconds(layer.attention, tokens_, layer.attention.weights / tensor, p);
  times.dense = Seconds(layer.dense, tokens_, layer.dense.weights / tensor, p);
  times.tensor = TensorSeconds();
  if (!layer.is_moe) return times;
  Work expert = layer.expert;
  const bool narrow_rows = p == Precision::kFp8 && layout_.dispatch == DispatchRows::kAsProducts;
  if (layout_.dispatch == DispatchRows::kBf16) expert.fresh_in += width;  // to be quantised yet
  times.experts = Seconds(expert, rows_, layer.expert.weights * local_experts_, p);
  // FP8 rows travel with an FP32 scale for each tile of 128.
  times.dispatch = ExchangeTime(narrow_rows ? width + width / 128 * 4 : width * WideBytes(p));
  times.combine = ExchangeTime(width * WideBytes(p));
  return times;
}

namespace {

Phase Compute(PhaseKind kind, double seconds, Growth growth = Growth::kFixed) {
  return {kind, Lane::kCompute, seconds, growth};
}

Phase Exchange(PhaseKind kind, double seconds) {
  return {kind, Lane::kComm, seconds, Growth::kWithRows};
}

}  // namespace

ChunkCost LayoutCosts::LayerCost(const LayerWork& layer) const {
  const Precision p = layout_.precision;
  const double tensor = layout_.tensor, local = layer.expert.weights * local_experts_;
  const ForwardTimes forward = ForwardOf(layer);
  const Again again = AgainOf(layer, forward);
  // Gathers of parameters are fetched ahead: what does not fit behind the layer shows.
  const double exposed_gather =
      std::max(0.0, GatherSeconds(layer) - forward.attention - forward.dense - forward.experts);
  const auto back = [&](const Work& work, double once_more) {
    return once_more + BackwardSeconds(work, tokens_, work.weights / tensor, p);
  };
  ChunkCost cost;
  cost.forward = {Compute(PhaseKind::kAttention, forward.attention + exposed_gather)};
  const bool has_tensor = forward.tensor > 0;
  if (has_tensor) cost.forward.push_back({PhaseKind::kOther, Lane::kComm, forward.tensor});
  const Phase dense = Compute(PhaseKind::kDense, forward.dense);
  const Phase dense_back = Compute(PhaseKind::kDense, back(layer.dense, again.compute.dense));
  if (layer.is_moe) {
    const double experts_back =
        again.compute.experts + BackwardSeconds(layer.expert, rows_, local, p);
    Append(cost.forward, {Exchange(PhaseKind::kDispatch, forward.dispatch), dense,
                          Compute(PhaseKind::kExperts, forward.experts, Growth::kWithRows),
                          Exchange(PhaseKind::kCombine, forward.combine)});
    if (again.exchange > 0)
      cost.backward_input.push_back(Exchange(PhaseKind::kDispatch, again.exchange));
    // Backward of combine is a dispatch, of dispatch a combine.
    Append(cost.backward_input, {Exchange(PhaseKind::kCombine, forward.dispatch), dense_back,
                                 Compute(PhaseKind::kExperts, experts_back, Growth::kWithRows),
                                 Exchange(PhaseKind::kDispatch, forward.combine)});
  } else {
    cost.forward.push_back(dense);
    cost.backward_input.push_back(dense_back);
  }
  cost.backward_weight.push_back(Compute(
      PhaseKind::kDense, WeightSeconds(layer.dense, tokens_, layer.dense.weights / tensor, p)));
  if (layer.is_moe) {
    cost.backward_weight.push_back(Compute(
        PhaseKind::kExperts, WeightSeconds(layer.expert, rows_, local, p), Growth::kWithRows));
  }
  const int before_attention =
      static_cast<int>(cost.backward_input.size()) - (layer.is_moe ? 1 : 0);
  cost.weight_after.assign(cost.backward_weight.size(), before_attention);
  if (has_tensor)
    cost.backward_input.push_back({PhaseKind::kOther, Lane::kComm, forward.tensor + again.tensor});
  cost.backward_input.push_back(Compute(
      PhaseKind::kAttention, back(layer.attention, again.compute.attention) + exposed_gather));
  cost.backward_weight.push_back(
      Compute(PhaseKind::kAttention,
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
  return SplitByCost(seconds, head_seconds, layout_.num_stages(), layout_.empty_ends);
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
