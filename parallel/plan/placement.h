// Where experts and their copies live, from how many rows each expert got: DeepSeek's expert
// parallelism load balancer (github.com/deepseek-ai/EPLB, README and algorithm description).   L
// layers, E experts, R replicas, G groups of experts, N nodes, D devices
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace sluice::parallel {

struct PlacementShape {
  int replicas = 0;  // slots in all, at least E
  int groups = 1;    // of experts that a token's choice is limited to (n_group)
  int nodes = 1;
  int devices = 1;
};

struct LayerPlacement {
  std::vector<int> expert_of_slot;                // [R], slots of a device are neighbours
  std::vector<std::vector<int>> slots_of_expert;  // [E][copies], in the order of copying
  std::vector<int> copies;                        // [E]
  std::vector<double> device_load;                // [D], an expert's rows split evenly over copies
};

// Heaviest first, each to the lightest pack that still has room (n items, m packs, n / m a pack).
// Equal weights keep their order; the lowest pack wins a tie. Identity order when n / m = 1.
// pack_of[i] and place_of[i] of item i. CHECKs that m divides n.
struct Packing {
  std::vector<int> pack_of, place_of;
};
Packing PackEvenly(const std::vector<double>& weight, int packs);

// Hierarchical where the groups divide over the nodes: groups to nodes, copies inside each node,
// copies to the node's devices. Global otherwise. `weight` [E], not negative. INVALID_ARGUMENT:
// sizes that do not divide, with what was found.
absl::StatusOr<LayerPlacement> PlaceExperts(const std::vector<double>& weight,
                                            const PlacementShape& shape);

// Without copies, experts in order: what runs when nobody balances.
absl::StatusOr<LayerPlacement> PlaceInOrder(const std::vector<double>& weight, int devices);

double WorstOverMean(const LayerPlacement& placement);

}  // namespace sluice::parallel
