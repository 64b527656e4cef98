// Libraries of others that compute in place of our kernels where a run asks for them;
// kernels/vendor makes them. Each serves one stream.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_stream.h"
#include "kernels/cuda/hopper_matmul.h"
#include "kernels/ops/attention.h"

namespace sluice::kernels::cuda {

class DenseLibrary {
 public:
  virtual ~DenseLibrary() = default;
  // Whether it can do a product; our kernels do the others.
  virtual bool Takes(const HopperMatmulArgs& args) const = 0;
  // Enqueues a product that it takes. Other bits than ours, where the sums are not exact.
  virtual absl::Status Multiply(const HopperMatmulArgs& args, CudaStream& stream) = 0;
  virtual std::string Name() const = 0;  // with its version
};

class AttentionLibrary {
 public:
  virtual ~AttentionLibrary() = default;
  // Whether it can do the forward; our kernels do the others, and every backward.
  virtual bool Takes(const AttentionArgs& args) const = 0;
  virtual absl::Status Attend(const AttentionArgs& args, CudaStream& stream) = 0;
  virtual std::string Name() const = 0;
};

struct Libraries {
  std::unique_ptr<DenseLibrary> dense;          // or null
  std::unique_ptr<AttentionLibrary> attention;  // or null
};
// Called when the device was chosen.
using MakeLibraries = std::function<absl::StatusOr<Libraries>()>;

}  // namespace sluice::kernels::cuda
