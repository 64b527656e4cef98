// Memory of one rank, by kind.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "parallel/plan/plan.h"

namespace sluice::parallel {
namespace {

struct KeptBytes {
  double of_token = 2, of_row = 2;
  bool returned = true;
};

// DeepSeek-V3 report section 3.3.3: beside FP8 products, inputs of products and of SwiGLU are kept
// as FP8 (rows of experts wholly, of tokens mostly: 1.25 bytes are a guess, three quarters of the
// elements in FP8 and one in BF16, for want of a published total). The gate's gradient can then
// come from SwiGLU's side, so that returned rows are not kept.
KeptBytes KeptBytesOf(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return {4, 4, true};
    case Precision::kBf16:
      return {2, 2, true};
    case Precision::kFp8:
      return {1.25, 1, false};
  }
  return {};
}

double ValueBytes(Precision precision) { return precision == Precision::kFp32 ? 4 : 2; }

double KeptOf(const Kept& kept, const RecomputeChoice& recompute) {
  return kept.rest + (recompute.norms ? 0 : kept.norms) + (recompute.mla_up ? 0 : kept.mla_up) +
         (recompute.swiglu ? 0 : kept.swiglu);
}

// Bytes of one microbatch in one stage, between its forward and its weight gradients.
double KeptInStage(const PlanRequest& request, const Layout& layout, const LayoutCosts& costs,
                   const StageShare& stage, double row_factor) {
  const double hidden = static_cast<double>(request.model.hidden);
  const KeptBytes bytes = KeptBytesOf(layout.precision);
  const double token = costs.tokens() * bytes.of_token;
  const auto of_layer = [&](const LayerWork& layer) {
    if (layout.recompute.everything) return token * hidden;
    double sum = token * KeptOf(layer.kept, layout.recompute);
    if (!layer.is_moe || layout.recompute.moe) return sum;
    const double row =
        KeptOf(layer.kept_row, layout.recompute) + (bytes.returned ? layer.kept_row.returned : 0);
    return sum + costs.rows() * row_factor * row * bytes.of_row;
  };
  double kept = token * hidden;
  for (int i = stage.first_layer; i < stage.first_layer + stage.num_layers; ++i)
    kept += of_layer(request.model.layers[i]);
  if (stage.has_head) {
    kept += 3 * token * hidden;
    kept += request.model.mtp_depth * (of_layer(request.model.mtp) + 4 * token * hidden);
  }
  return kept;
}

// What products read in place of the values. FP8 products always read quantised copies, with an
// FP32 scale a tile of 128 x 128.
double CopyBytes(const LayoutCosts::Held& held, const Layout& layout, int copies) {
  const bool fp8 = layout.precision == Precision::kFp8;
  const double value = ValueBytes(layout.precision);
  const double narrow = fp8 ? std::max(1, copies) * (1 + 4.0 / (128 * 128)) : copies * value;
  return narrow * held.narrow_weights + copies * value * held.wide_weights;
}

// The most that is alive at once on `rank`, walking its actions.
double PeakOf(const std::vector<double>& of_stage, const Schedule& schedule, int rank) {
  double live = 0, peak = 0;
  for (const Action& action : schedule.actions[rank]) {
    if (action.kind == ActionKind::kForward || action.kind == ActionKind::kOverlap) {
      live += of_stage[action.stage];
      peak = std::max(peak, live);
    }
    if (action.kind == ActionKind::kBackward || action.kind == ActionKind::kBackwardWeight)
      live -= of_stage[action.stage];
    if (action.kind == ActionKind::kOverlap) live -= of_stage[action.backward_stage];
  }
  return peak;
}

// Layers are uneven independently of each other, microbatches of a step alike: the sum over the
// layers of a stage strays by the square root of their number less than one layer does.
double Softened(double row_factor, int layers) {
  return layers > 1 ? 1 + (row_factor - 1) / std::sqrt(static_cast<double>(layers)) : row_factor;
}

std::vector<std::pair<double, const char*>> KindsBySize(const MemoryUse& use) {
  std::vector<std::pair<double, const char*>> kinds = {
      {use.parameters, "parameters"},       {use.gradients, "gradients"},
      {use.optimizer, "optimizer"},         {use.activations, "activations"},
      {use.communication, "communication"}, {use.scratch, "scratch"}};
  std::stable_sort(kinds.begin(), kinds.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  return kinds;
}

}  // namespace

std::string MemoryUse::LargestKind() const { return KindsBySize(*this)[0].second; }

std::string MemoryUse::ToString() const {
  std::string text;
  for (const auto& [bytes, name] : KindsBySize(*this))
    absl::StrAppendFormat(&text, "%s%s %.1f", text.empty() ? "" : ", ", name, bytes / 1e9);
  return text;
}

MemoryUse MemoryOf(const PlanRequest& request, const Layout& layout, const LayoutCosts& costs,
                   const std::vector<StageShare>& stages, const Schedule& schedule, int rank,
                   double row_factor) {
  MemoryUse use;
  const LayoutCosts::Held held = costs.HeldBy(rank, stages, schedule);
  const double dense_shards = costs.dense_shards(schedule),
               expert_shards = costs.expert_shards(schedule);
  const auto sharded = [&](int from_stage, double bytes) {
    return bytes * (layout.zero >= from_stage
                        ? held.dense / dense_shards + held.expert / expert_shards
                        : held.dense + held.expert);
  };
  use.parameters = sharded(3, ValueBytes(layout.precision)) +
                   sharded(3, 1) / std::max(1.0, held.dense + held.expert) *
                       CopyBytes(held, layout, request.cluster.device.weight_copies) +
                   held.state_bytes + request.model.table_bytes;
  use.gradients = sharded(2, 4);
  use.optimizer =
      sharded(1, (layout.precision == Precision::kFp32 ? 0 : 4) + 2 * layout.moment_bytes);
  std::vector<double> kept(schedule.num_stages);
  for (int stage = 0; stage < schedule.num_stages; ++stage)
    kept[stage] = KeptInStage(request, layout, costs, stages[stage],
                              Softened(row_factor, costs.num_moe_layers(stages[stage])));
  use.activations = PeakOf(kept, schedule, rank);
  const double hidden = static_cast<double>(request.model.hidden);
  const double wide = ValueBytes(layout.precision);
  if (layout.expert > 1)  // rows on their way: sent, and received in another order
    use.communication = costs.rows() * (1 + row_factor) * hidden * wide;
  // Temporaries of the largest op chain: a layer's gradients of rows, or a block of logits.
  const double rows = request.model.experts > 0 ? costs.rows() * row_factor : 0;
  use.scratch = wide * (4 * costs.tokens() * hidden + 2 * rows * hidden);
  return use;
}

}  // namespace sluice::parallel
