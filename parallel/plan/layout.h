// How a model is laid out on a cluster, and what each of its stages costs there.   P pipeline
// ranks, T tokens of a rank in a microbatch
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/plan/cluster.h"
#include "parallel/plan/model_work.h"
#include "parallel/schedule/schedule.h"
#include "parallel/sim/costs.h"
#include "parallel/sim/links.h"

namespace sluice::parallel {

struct RecomputeChoice {
  bool norms = false, mla_up = false, swiglu = false;
  // Known as costs, not run by Sluice: all of a layer with a gate from its second norm on (Megatron
  // calls it "moe"), and a whole layer.
  bool moe = false, everything = false;
  std::string ToString() const;
};

// May the last stage hold no layer but the head only, and the first the embedding only?
enum class EmptyEnds : uint8_t { kNone, kHead, kBoth };

enum class DispatchRows : uint8_t { kAsProducts, kBf16 };  // with FP8 products FP8, or BF16

// What FP8 products scale: tiles of 128, or whole tensors by their current largest element.
enum class Fp8Scaling : uint8_t { kTiles, kTensors };

enum class HeadWork : uint8_t {
  kWithLoss,  // the head's gradients are computed with its loss, in forward: no logits are kept
  kApart      // in forward and backward, as other layers
};

struct Layout {
  int pipe = 1, data = 1, expert = 1;
  int tensor = 1, context = 1;  // known as costs only
  std::string schedule = "1f1b";
  int chunks = 1;
  int microbatch = 1;    // sequences
  int microbatches = 1;  // of one pipeline in a step
  Precision precision = Precision::kBf16;
  RecomputeChoice recompute;
  int zero = 1;  // stage: 1 optimizer, 2 gradients, 3 parameters
  int moment_bytes = 4;
  Overlap overlap = Overlap::kNone;  // of neighbours, where the schedule has no kOverlap
  bool overlap_gradients = false;    // reduction and gather hide behind the pipeline
  int gradient_reductions = 0;       // a step, from ZeRO-2 on; 0: after each microbatch
  ExchangeKind exchange = ExchangeKind::kHierarchical;
  DispatchRows dispatch = DispatchRows::kAsProducts;
  Fp8Scaling scaling = Fp8Scaling::kTiles;
  HeadWork head = HeadWork::kWithLoss;
  EmptyEnds empty_ends = EmptyEnds::kNone;  // Sluice's own stages hold at least one layer

  int num_ranks() const { return pipe * data * tensor * context; }
  int num_stages() const { return pipe * chunks; }
  std::string ToString() const;
};

struct StageShare {
  int first_layer = 0, num_layers = 0;
  bool has_embedding = false, has_head = false;  // head: with all prediction modules
};

// Cuts layers into stages so that the slowest is as fast as can be under `layer_seconds` and the
// head's. INVALID_ARGUMENT when there are more stages than layers and ends that may be empty.
absl::StatusOr<std::vector<StageShare>> SplitByCost(const std::vector<double>& layer_seconds,
                                                    double head_seconds, int num_stages,
                                                    EmptyEnds empty);

// The price list of one layout; everything below refers to one rank.
class LayoutCosts {
 public:
  // `model` and `cluster` outlive it.
  LayoutCosts(const ModelWork& model, const Cluster& cluster, const Layout& layout);

  double tokens() const { return tokens_; }  // of a microbatch
  double rows() const { return rows_; }      // routed, with even experts
  int local_experts() const { return local_experts_; }
  ChunkCost LayerCost(const LayerWork& layer) const;
  ChunkCost HeadCost() const;  // with prediction modules
  // Forward and backward of one microbatch, one after the other.
  double LayerSeconds(const LayerWork& layer) const;
  absl::StatusOr<std::vector<StageShare>> Split() const;
  // For Simulate. `schedule` says which stages a rank holds.
  StepCosts Costs(const std::vector<StageShare>& stages, const Schedule& schedule) const;
  // Parameters of a stage on this rank.
  double DenseParameters(const StageShare& stage) const;
  double ExpertParameters(const StageShare& stage) const;
  // All that `rank` holds: a rank with the first and the last stage has one embedding for both.
  struct Held {
    double dense = 0, expert = 0;  // trained
    double narrow_weights = 0;     // of them, those of products that FP8 has in FP8
    double wide_weights = 0;       // of gates and head
    double state_bytes = 0;
  };
  Held HeldBy(int rank, const std::vector<StageShare>& stages, const Schedule& schedule) const;
  int num_moe_layers(const StageShare& stage) const;
  // Over how many ranks a stage's gradients are reduced and its optimizer is cut.
  double dense_shards(const Schedule& schedule) const;
  double expert_shards(const Schedule& schedule) const;

 private:
  // Of one layer's forward, even experts.
  struct ForwardTimes {
    double attention = 0, dense = 0, experts = 0;
    double dispatch = 0, combine = 0;  // exchanges
    double tensor = 0;                 // messages of tensor and context parallelism
  };
  struct Again {
    ForwardTimes compute;
    double exchange = 0, tensor = 0;
  };

  ForwardTimes ForwardOf(const LayerWork& layer) const;
  Again AgainOf(const LayerWork& layer, const ForwardTimes& forward) const;
  double QuantizeSeconds(double tile_bytes, double tensor_bytes, double elements,
                         Precision precision) const;
  double Seconds(const Work& work, double count, double calls_weights, Precision precision) const;
  double BackwardSeconds(const Work& work, double count, double weights, Precision precision) const;
  double WeightSeconds(const Work& work, double count, double weights, Precision precision) const;
  double ExchangeTime(double row_bytes) const;
  double TensorSeconds() const;
  double GatherSeconds(const LayerWork& layer) const;
  void AddLayer(const LayerWork& layer, Held& held) const;
  TailCost Tail(const Held& held, const Schedule& schedule) const;

  const ModelWork& model_;
  const Cluster& cluster_;
  const Layout layout_;
  double tokens_ = 0, rows_ = 0;
  int local_experts_ = 0;
};

}  // namespace sluice::parallel
