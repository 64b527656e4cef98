// What the tests of simulator and planner share.
#pragma once

#include <utility>

#include "parallel/sim/costs.h"

namespace sluice::parallel::testing {

// F, I, W seconds on the compute lane in every stage.
inline StepCosts EvenCosts(int stages, double forward, double input, double weight) {
  StepCosts costs;
  ChunkCost chunk;
  chunk.forward = {{PhaseKind::kDense, Lane::kCompute, forward}};
  chunk.backward_input = {{PhaseKind::kDense, Lane::kCompute, input}};
  chunk.backward_weight = {{PhaseKind::kDense, Lane::kCompute, weight}};
  chunk.weight_after = {1};
  costs.stages.assign(stages, chunk);
  return costs;
}

}  // namespace sluice::parallel::testing
