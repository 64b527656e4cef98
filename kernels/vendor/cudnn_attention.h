// Causal attention by NVIDIA's cuDNN, a peer of ours, through its C interface: a graph of products,
// pointwise operations and reductions that it fuses. Tests without a GPU see its descriptors only;
// tests/gpu_check runs it.
//   B sequences of S tokens each, A heads, D and V wide
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/stream.h"
#include "kernels/vendor/fused_attention.h"

namespace sluice::kernels::vendor {

// In BF16, as kernels/ops/attention.h lays them out: q and k [B S, A, D], v and o [B S, A, V],
// log_sum_exp [B S, A] f32. All but the last at a multiple of 16 bytes.
struct AttentionPointers {
  const void *q = nullptr, *k = nullptr, *v = nullptr;
  void* o = nullptr;
  float* log_sum_exp = nullptr;
};

class Cudnn {
 public:
  // As CublasLt::Create.
  static absl::StatusOr<std::unique_ptr<Cudnn>> Create(
      bool device = true, const std::vector<std::string>& libraries = {});
  virtual ~Cudnn() = default;

  // Makes and finalises the tensors and operations of the graph, with or without a device. Returns
  // how many descriptors that are.
  virtual absl::StatusOr<int> Describe(const FusedAttention& attention) = 0;
  // Enqueues it on a CUDA stream. The first call of a shape builds a plan, which takes a while.
  virtual absl::Status Run(const FusedAttention& attention, float scale,
                           const AttentionPointers& pointers, Stream& stream) = 0;
  virtual std::string Version() const = 0;  // "9.19.0"
};

}  // namespace sluice::kernels::vendor
