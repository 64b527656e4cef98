// Micro-benchmarks of this machine, as the numbers of a cluster file.   T tokens of a microbatch
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "parallel/comm/communicator.h"
#include "parallel/plan/cluster.pb.h"
#include "trainer/model/model.pb.h"

namespace sluice::launch {

// Of one rank, measured while all ranks do the same; rates are means over ranks. Efficiencies are
// what the formulas of parallel/plan need so that their sum over the products (or other ops) of one
// forward of the model equals what was measured.
struct Calibration {
  std::string model;  // the shapes come from it
  int64_t tokens = 0;
  int ranks = 1, cores = 1, threads = 1;
  double memory_bytes = 0;
  double fp32_peak = 0, bf16_peak = 0;                    // flop/s, on registers only
  double fp32_products = 0, bf16_products = 0;            // share of the peak
  double fp32_weight_factor = 1, bf16_weight_factor = 1;  // a weight gradient's time / a forward's
  double core_forward = 0, core_backward = 0;           // attention proper, share of the BF16 peak
  double copy_rate = 0;                                 // bytes/s read and written
  double element_share = 0;                             // of it that other ops reach, BF16
  double op_seconds = 0;                                // of an op with next to nothing to do
  double adam_rate = 0, pack_rate = 0, clear_rate = 0;  // parameters a second
  double message_latency = 0, message_rate = 0;         // point to point; seconds, bytes/s
  double exchange_latency = 0, exchange_rate = 0;       // all-to-all, of a rank
  double reduce_rate = 0, gather_rate = 0;              // reduce-scatter, all-gather, of a rank
  double waiting_share = 0;                             // of a core, by a rank that waits
};

// Takes about three seconds for a small model. Collective. `model` is resolved.
absl::StatusOr<Calibration> Calibrate(const trainer::ModelConfig& model, int64_t tokens,
                                      int64_t sequence_length, parallel::Communicator& world,
                                      kernels::DeviceContext& device);

// Field by field with its origin as a comment; reads back as parallel/plan/cluster.proto.
std::string ClusterText(const Calibration& calibration, const std::string& name);

}  // namespace sluice::launch
