// What a training step costs, as plain numbers: the simulator's input.   P pipeline ranks, S
// stages, L layers of a stage; all times in seconds
#pragma once

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"

namespace sluice::parallel {

// The part of a layer that a phase computes or moves.
enum class PhaseKind : uint8_t { kAttention, kDispatch, kExperts, kCombine, kDense, kHead, kOther };
absl::string_view NameOf(PhaseKind kind);

// Phases of one lane run one after the other; the two lanes run side by side where a schedule
// overlaps a forward with a backward.
enum class Lane : uint8_t { kCompute, kComm };

enum class Growth : uint8_t { kFixed, kWithRows };  // kWithRows: with the rows an expert rank gets

struct Phase {
  PhaseKind kind = PhaseKind::kOther;
  Lane lane = Lane::kCompute;
  double seconds = 0;
  Growth growth = Growth::kFixed;
};

// One microbatch in one stage.
struct ChunkCost {
  std::vector<Phase> forward;         // in this order
  std::vector<Phase> backward_input;  // in this order
  // weight_after[i]: backward_weight[i] can run once so many phases of backward_input are done.
  std::vector<Phase> backward_weight;
  std::vector<int> weight_after;
};

// What comes after the last microbatch, of one pipeline rank. A gradient reduction or gather that
// hides behind the pipeline is simply not in here.
struct TailCost {
  double reduce_gradients = 0, optimizer = 0, gather_parameters = 0;
  double total() const { return reduce_gradients + optimizer + gather_parameters; }
};

enum class Overlap : uint8_t {
  kNone,       // a chunk alone is the sum of its phases
  kNeighbours  // a forward and the backward next to it in the steady state hide each other's
               // communication, though the schedule has no kOverlap (Megatron's 1F1B overlap)
};

struct StepCosts {
  std::vector<ChunkCost> stages;  // [S]
  double message_seconds = 0;     // an activation or its gradient, from stage to stage
  double message_latency = 0;     // on top of it, not occupying the link
  // Compute phases take that many times longer while communication runs beside them: the share of
  // a GPU's multiprocessors that the exchange kernels take (20 of 132 in DeepSeek-V3: 132 / 112).
  double compute_factor_in_overlap = 1;
  Overlap overlap = Overlap::kNone;
  std::vector<TailCost> tails;  // [P], or empty
};

}  // namespace sluice::parallel
