// One or two chunks on the two lanes of a rank: how long, and how much communication stays visible.
#pragma once

#include <vector>

#include "parallel/sim/costs.h"

namespace sluice::parallel {

struct LaneTimes {
  double seconds = 0;
  double compute_busy = 0, comm_busy = 0;
  double exposed_comm() const { return seconds - compute_busy; }  // compute waits for communication
};

struct ChunkPair {
  const ChunkCost* forward = nullptr;          // may be null
  const ChunkCost* backward = nullptr;         // may be null; its weight gradients run too
  double forward_rows = 1, backward_rows = 1;  // factors on phases that grow with rows
  double compute_factor = 1;
};

struct PlacedPhase {
  Phase phase;
  bool is_backward = false;
  double start = 0, finish = 0;
};

// Greedy list scheduling: whichever phase can start first does; at a tie the backward goes first,
// weight gradients last. Phases of a chunk keep their order, weight gradients only wait for theirs.
// At least the larger lane, at most the sum. `placed` (may be null) receives what ran when.
LaneTimes PlayPair(const ChunkPair& pair, std::vector<PlacedPhase>* placed = nullptr);

// One after the other, nothing overlapped.
LaneTimes SumOf(const std::vector<Phase>& phases, double rows, double compute_factor);

}  // namespace sluice::parallel
