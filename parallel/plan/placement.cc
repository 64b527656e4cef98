#include "parallel/plan/placement.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace sluice::parallel {
namespace {

std::vector<int> HeaviestFirst(const std::vector<double>& weight) {
  std::vector<int> order(weight.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return weight[a] > weight[b]; });
  return order;
}

// Copies of `experts` (global ids) on one node: the id of each slot, and which copy of it it is.
struct NodeCopies {
  std::vector<int> expert, copy;
};

NodeCopies Replicate(const std::vector<double>& weight, const std::vector<int>& experts,
                     int slots) {
  NodeCopies copies{experts, std::vector<int>(experts.size(), 0)};
  std::vector<int> count(experts.size(), 1);
  while (static_cast<int>(copies.expert.size()) < slots) {
    size_t heaviest = 0;
    for (size_t i = 1; i < experts.size(); ++i) {
      if (weight[experts[i]] / count[i] > weight[experts[heaviest]] / count[heaviest]) heaviest = i;
    }
    copies.expert.push_back(experts[heaviest]);
    copies.copy.push_back(count[heaviest]++);
  }
  return copies;
}

absl::Status CheckShape(size_t experts, const PlacementShape& s) {
  const int num_experts = static_cast<int>(experts);
  if (s.nodes < 1 || s.devices < 1 || s.groups < 1 || num_experts < 1 || s.devices % s.nodes != 0 ||
      s.replicas < num_experts || s.replicas % s.devices != 0 || num_experts % s.groups != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "placement: found ", num_experts, " experts in ", s.groups, " groups, ", s.replicas,
        " replicas, ", s.devices, " devices on ", s.nodes,
        " nodes, wanted nodes that divide devices, devices that divide replicas, groups that "
        "divide experts, and at least one replica an expert"));
  }
  return absl::OkStatus();
}

void FillLoads(const std::vector<double>& weight, int devices, LayerPlacement& placement) {
  const size_t each = placement.expert_of_slot.size() / devices;
  placement.device_load.assign(devices, 0.0);
  for (size_t slot = 0; slot < placement.expert_of_slot.size(); ++slot) {
    const int expert = placement.expert_of_slot[slot];
    placement.device_load[slot / each] += weight[expert] / placement.copies[expert];
  }
}

}  // namespace

Packing PackEvenly(const std::vector<double>& weight, int packs) {
  CHECK(packs > 0 && weight.size() % packs == 0) << weight.size() << " items, " << packs;
  const int room = static_cast<int>(weight.size()) / packs;
  Packing packing{std::vector<int>(weight.size()), std::vector<int>(weight.size(), 0)};
  if (room == 1) {
    std::iota(packing.pack_of.begin(), packing.pack_of.end(), 0);
    return packing;
  }
  std::vector<double> load(packs, 0.0);
  std::vector<int> used(packs, 0);
  for (const int item : HeaviestFirst(weight)) {
    int lightest = -1;
    for (int pack = 0; pack < packs; ++pack) {
      if (used[pack] < room && (lightest < 0 || load[pack] < load[lightest])) lightest = pack;
    }
    packing.pack_of[item] = lightest;
    packing.place_of[item] = used[lightest]++;
    load[lightest] += weight[item];
  }
  return packing;
}

absl::StatusOr<LayerPlacement> PlaceExperts(const std::vector<double>& weight,
                                            const PlacementShape& shape) {
  if (const absl::Status status = CheckShape(weight.size(), shape); !status.ok()) return status;
  const bool hierarchical = shape.groups % shape.nodes == 0;
  const int groups = hierarchical ? shape.groups : 1, nodes = hierarchical ? shape.nodes : 1;
  const int num_experts = static_cast<int>(weight.size()), per_group = num_experts / groups;
  std::vector<double> group_weight(groups, 0.0);
  for (int e = 0; e < num_experts; ++e) group_weight[e / per_group] += weight[e];
  const Packing group_packing = PackEvenly(group_weight, nodes);

  LayerPlacement placement;
  placement.copies.assign(num_experts, 0);
  placement.expert_of_slot.assign(shape.replicas, -1);
  placement.slots_of_expert.resize(num_experts);
  const int slots = shape.replicas / nodes, devices = shape.devices / nodes;
  for (int node = 0; node < nodes; ++node) {
    std::vector<int> experts(num_experts / nodes);  // in the order of their place on the node
    for (int g = 0; g < groups; ++g) {
      if (group_packing.pack_of[g] != node) continue;
      for (int i = 0; i < per_group; ++i)
        experts[group_packing.place_of[g] * per_group + i] = g * per_group + i;
    }
    const NodeCopies copies = Replicate(weight, experts, slots);
    for (const int expert : copies.expert) ++placement.copies[expert];
    std::vector<double> share;
    for (const int expert : copies.expert)
      share.push_back(weight[expert] / placement.copies[expert]);
    const Packing packing = PackEvenly(share, devices);
    const int room = slots / devices;
    for (int i = 0; i < slots; ++i) {
      const int slot = node * slots + packing.pack_of[i] * room + packing.place_of[i];
      placement.expert_of_slot[slot] = copies.expert[i];
      std::vector<int>& places = placement.slots_of_expert[copies.expert[i]];
      if (static_cast<int>(places.size()) <= copies.copy[i]) places.resize(copies.copy[i] + 1);
      places[copies.copy[i]] = slot;
    }
  }
  FillLoads(weight, shape.devices, placement);
  return placement;
}

absl::StatusOr<LayerPlacement> PlaceInOrder(const std::vector<double>& weight, int devices) {
  const PlacementShape shape{static_cast<int>(weight.size()), 1, 1, devices};
  if (const absl::Status status = CheckShape(weight.size(), shape); !status.ok()) return status;
  LayerPlacement placement;
  placement.copies.assign(weight.size(), 1);
  placement.expert_of_slot.resize(weight.size());
  std::iota(placement.expert_of_slot.begin(), placement.expert_of_slot.end(), 0);
  for (int e = 0; e < static_cast<int>(weight.size()); ++e)
    placement.slots_of_expert.push_back({e});
  FillLoads(weight, devices, placement);
  return placement;
}

double WorstOverMean(const LayerPlacement& placement) {
  double total = 0, worst = 0;
  for (const double load : placement.device_load) {
    total += load;
    worst = std::max(worst, load);
  }
  return total > 0 ? worst * static_cast<double>(placement.device_load.size()) / total : 1.0;
}

}  // namespace sluice::parallel
