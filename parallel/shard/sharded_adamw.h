// ZeRO-1 (Rajbhandari et al., arXiv 1910.02054): parameters and gradients of a group live whole on
// every rank of the group, as one flat array each; the FP32 masters and the moments are cut in
// equal contiguous shards, one a rank.
//   n elements of the flat arrays (padded to a multiple of P), P ranks of the group, m = n / P
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "parallel/comm/communicator.h"

namespace sluice::parallel {

// A run of elements of the flat arrays that share settings; segments ascend and do not overlap.
// Padding has none.
struct FlatSegment {
  int64_t begin = 0, end = 0;
  bool decay = true;              // weight decay applies
  bool counted_in_norm = true;    // false for a second copy of a tied tensor
  bool trained = true;            // false: never changed
  float learning_rate_scale = 1;  // times the step's
  float weight_decay = -1;        // in place of the step's; negative: the step's
};

struct ShardedAdamWOptions {
  kernels::DType moment_dtype = kernels::DType::kF32;  // f32 | bf16
  float average_decay = 0;  // of a moving average of the masters, kept by the host; 0: none
};

struct AdamWHyperparameters {
  float learning_rate = 0, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0.1f;
  float gradient_scale = 1;  // multiplies the summed gradient: 1 / tokens, times the clip factor
  int64_t step = 1;
};

class ShardedAdamW {
 public:
  // values [n] f32 | bf16 and gradients [n] f32 belong to the caller and outlive this. With f32
  // values the master shard is this rank's part of `values` itself; with bf16 values it is its own
  // memory. n must be a multiple of P.
  static absl::StatusOr<std::unique_ptr<ShardedAdamW>> Create(
      kernels::DeviceContext& device, Communicator& group, TensorView values, TensorView gradients,
      std::span<const FlatSegment> segments, const ShardedAdamWOptions& options);
  virtual ~ShardedAdamW() = default;

  virtual int64_t shard_begin() const = 0;
  virtual int64_t shard_end() const = 0;
  // [m] views of this rank's shard, for initialisation and checkpoints. gradient(): valid after
  // ReduceGradients.
  virtual TensorView master() = 0;
  virtual TensorView first_moment() = 0;
  virtual TensorView second_moment() = 0;
  virtual ConstTensorView gradient() const = 0;
  // [m] f32 of the host: average += (1 - decay) (master - average) after each step. Null: none.
  virtual TensorView average() = 0;
  // average = master: after masters were written from outside and no average was.
  virtual absl::Status ResetAverage(Stream& stream) = 0;

  // Sums gradients over the group in FP32, ascending rank order; this rank keeps its shard.
  virtual absl::Status ReduceGradients(Stream& stream) = 0;
  // *sum = sum of squares over this rank's shard, elements with counted_in_norm only, in FP64 in a
  // fixed order.
  virtual absl::Status SumSquares(Stream& stream, double* sum) = 0;
  // AdamW on this rank's shard; then every rank's values hold the new values of all shards.
  virtual absl::Status Step(const AdamWHyperparameters& hyperparameters, Stream& stream) = 0;
  // values = masters, gathered: after masters were written from outside.
  virtual absl::Status PublishMasters(Stream& stream) = 0;
};

}  // namespace sluice::parallel
