#include "parallel/plan/cluster.h"

#include <cmath>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace sluice::parallel {
namespace {

absl::Status Positive(absl::string_view field, double value) {
  if (value > 0 && std::isfinite(value)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("cluster: ", field, ": found ", value, ", wanted a number above 0"));
}

absl::Status Share(absl::string_view field, double value) {
  if (value > 0 && value <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("cluster: ", field, ": found ", value, ", wanted more than 0, at most 1"));
}

double Or(bool has, double value, double otherwise) { return has ? value : otherwise; }

absl::StatusOr<Device> ToDevice(const DeviceProto& p) {
  Device d;
  d.name = p.name();
  d.peak_fp8 = p.peak_fp8_flops();
  d.peak_bf16 = p.peak_bf16_flops();
  d.peak_fp32 = p.peak_fp32_flops();
  d.sustained_clock = Or(p.has_sustained_clock(), p.sustained_clock(), 1);
  d.product_efficiency = Or(p.has_product_efficiency(), p.product_efficiency(), 1);
  d.core_forward_efficiency = Or(p.has_core_forward_efficiency(), p.core_forward_efficiency(), 1);
  d.core_backward_efficiency =
      Or(p.has_core_backward_efficiency(), p.core_backward_efficiency(), 1);
  d.memory_bytes_per_second = p.memory_bytes_per_second();
  d.memory_efficiency = Or(p.has_memory_efficiency(), p.memory_efficiency(), 1);
  d.op_seconds = p.op_seconds();
  d.memory_bytes = p.memory_bytes();
  d.reserved_bytes = p.reserved_bytes();
  d.fp32_product_efficiency =
      Or(p.has_fp32_product_efficiency(), p.fp32_product_efficiency(), d.product_efficiency);
  d.weight_gradient_factor = Or(p.has_weight_gradient_factor(), p.weight_gradient_factor(), 1);
  d.fp32_weight_gradient_factor = Or(p.has_fp32_weight_gradient_factor(),
                                     p.fp32_weight_gradient_factor(), d.weight_gradient_factor);
  d.optimizer_parameters_per_second = p.optimizer_parameters_per_second();
  d.packed_parameters_per_second = p.packed_parameters_per_second();
  d.cleared_parameters_per_second = p.cleared_parameters_per_second();
  d.weight_copies = p.weight_copies();
  if (d.weight_copies < 0) {
    return absl::InvalidArgumentError(absl::StrCat("cluster: device.weight_copies: found ",
                                                   d.weight_copies, ", wanted 0 or more"));
  }
  RETURN_IF_ERROR(Positive("device.peak_bf16_flops", d.peak_bf16));
  RETURN_IF_ERROR(Positive("device.memory_bytes_per_second", d.memory_bytes_per_second));
  RETURN_IF_ERROR(Positive("device.memory_bytes", d.memory_bytes));
  RETURN_IF_ERROR(Share("device.sustained_clock", d.sustained_clock));
  RETURN_IF_ERROR(Share("device.product_efficiency", d.product_efficiency));
  RETURN_IF_ERROR(Share("device.fp32_product_efficiency", d.fp32_product_efficiency));
  RETURN_IF_ERROR(Positive("device.weight_gradient_factor", d.weight_gradient_factor));
  RETURN_IF_ERROR(Positive("device.fp32_weight_gradient_factor", d.fp32_weight_gradient_factor));
  for (const auto& [has, field, value] :
       {std::tuple(p.has_optimizer_parameters_per_second(), "optimizer_parameters_per_second",
                   d.optimizer_parameters_per_second),
        std::tuple(p.has_packed_parameters_per_second(), "packed_parameters_per_second",
                   d.packed_parameters_per_second),
        std::tuple(p.has_cleared_parameters_per_second(), "cleared_parameters_per_second",
                   d.cleared_parameters_per_second)}) {
    if (has) RETURN_IF_ERROR(Positive(absl::StrCat("device.", field), value));
  }
  RETURN_IF_ERROR(Share("device.core_forward_efficiency", d.core_forward_efficiency));
  RETURN_IF_ERROR(Share("device.core_backward_efficiency", d.core_backward_efficiency));
  RETURN_IF_ERROR(Positive("device.memory_efficiency", d.memory_efficiency));
  const int all = p.multiprocessors(), taken = p.exchange_multiprocessors();
  if (taken < 0 || (taken > 0 && taken >= all)) {
    return absl::InvalidArgumentError(
        absl::StrCat("cluster: device.exchange_multiprocessors: found ", taken,
                     ", wanted fewer than device.multiprocessors = ", all));
  }
  if (taken > 0) d.compute_factor_in_overlap = static_cast<double>(all) / (all - taken);
  return d;
}

absl::StatusOr<Link> ToLink(absl::string_view name, const LinkProto& p, bool is_used) {
  Link link{p.bytes_per_second(), p.latency_seconds()};
  if (is_used)
    RETURN_IF_ERROR(Positive(absl::StrCat(name, ".bytes_per_second"), link.bytes_per_second));
  for (const auto& [has, field, value, to] :
       {std::tuple(p.has_reduction_bytes_per_second(), "reduction_bytes_per_second",
                   p.reduction_bytes_per_second(), &link.reduction_rate),
        std::tuple(p.has_gather_bytes_per_second(), "gather_bytes_per_second",
                   p.gather_bytes_per_second(), &link.gather_rate),
        std::tuple(p.has_message_bytes_per_second(), "message_bytes_per_second",
                   p.message_bytes_per_second(), &link.message_rate)}) {
    if (!has) continue;
    RETURN_IF_ERROR(Positive(absl::StrCat(name, ".", field), value));
    *to = value;
  }
  link.message_latency =
      Or(p.has_message_latency_seconds(), p.message_latency_seconds(), link.latency);
  return link;
}

}  // namespace

absl::string_view NameOf(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return "FP32";
    case Precision::kBf16:
      return "BF16";
    case Precision::kFp8:
      return "FP8";
  }
  return "?";
}

double NarrowBytes(Precision precision) {
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

double WideBytes(Precision precision) { return precision == Precision::kFp32 ? 4 : 2; }

double Device::peak(Precision precision) const {
  switch (precision) {
    case Precision::kFp32:
      return peak_fp32 > 0 ? peak_fp32 : peak_bf16 / 2;
    case Precision::kBf16:
      return peak_bf16;
    case Precision::kFp8:
      return peak_fp8 > 0 ? peak_fp8 : peak_bf16;
  }
  return peak_bf16;
}

double Device::product_rate(Precision precision) const {
  const double share = precision == Precision::kFp32 ? fp32_product_efficiency : product_efficiency;
  return peak(precision) * sustained_clock * share;
}

absl::StatusOr<Cluster> ToCluster(const ClusterProto& proto) {
  Cluster cluster;
  ASSIGN_OR_RETURN(cluster.device, ToDevice(proto.device()));
  cluster.name = proto.name();
  cluster.nodes = proto.has_nodes() ? proto.nodes() : 1;
  cluster.network.ranks_per_node = proto.has_ranks_per_node() ? proto.ranks_per_node() : 1;
  if (cluster.nodes < 1 || cluster.network.ranks_per_node < 1) {
    return absl::InvalidArgumentError(absl::StrCat("cluster: found ", cluster.nodes, " nodes of ",
                                                   cluster.network.ranks_per_node,
                                                   " ranks, wanted each at least 1"));
  }
  ASSIGN_OR_RETURN(cluster.network.inside,
                   ToLink("inside", proto.inside(), cluster.network.ranks_per_node > 1));
  ASSIGN_OR_RETURN(cluster.network.across, ToLink("across", proto.across(), cluster.nodes > 1));
  cluster.dollars_per_device_hour = proto.dollars_per_device_hour();
  cluster.cores_per_node = proto.cores_per_node();
  cluster.waiting_core_share = proto.waiting_core_share();
  if (!(cluster.waiting_core_share >= 0 && cluster.waiting_core_share <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("cluster: waiting_core_share: found ",
                                                   cluster.waiting_core_share, ", wanted 0 to 1"));
  }
  return cluster;
}

}  // namespace sluice::parallel
