// A machine as the planner computes on it. Field by field parallel/plan/cluster.proto.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "parallel/plan/cluster.pb.h"
#include "parallel/sim/links.h"

namespace sluice::parallel {

enum class Precision : uint8_t { kFp32, kBf16, kFp8 };
absl::string_view NameOf(Precision precision);
// Bytes of an element that products read; of one between products, which stays BF16 beside FP8.
double NarrowBytes(Precision precision);
double WideBytes(Precision precision);

struct Device {
  std::string name;
  double peak_fp8 = 0, peak_bf16 = 0, peak_fp32 = 0;
  double sustained_clock = 1, product_efficiency = 1;
  double core_forward_efficiency = 1, core_backward_efficiency = 1;
  double memory_bytes_per_second = 1, memory_efficiency = 1, op_seconds = 0;
  double compute_factor_in_overlap = 1;  // multiprocessors / (those without the exchange's)
  double memory_bytes = 0, reserved_bytes = 0;
  double fp32_product_efficiency = 1;
  double weight_gradient_factor = 1, fp32_weight_gradient_factor = 1;
  double optimizer_parameters_per_second = 0, packed_parameters_per_second = 0;  // 0: by bytes
  double cleared_parameters_per_second = 0;                                      // 0: no time
  int weight_copies = 0;  // in the order that products read, beside the values

  double peak(Precision precision) const;
  double product_rate(Precision precision) const;  // flop/s, memory traffic counted apart
  double weight_factor(Precision precision) const {
    return precision == Precision::kFp32 ? fp32_weight_gradient_factor : weight_gradient_factor;
  }
};

struct Cluster {
  std::string name;
  Device device;
  int nodes = 1;
  Network network;
  double dollars_per_device_hour = 0;
  int cores_per_node = 0;
  double waiting_core_share = 0;
  int num_ranks() const { return nodes * network.ranks_per_node; }
};

// INVALID_ARGUMENT: field, found, wanted.
absl::StatusOr<Cluster> ToCluster(const ClusterProto& proto);

}  // namespace sluice::parallel
