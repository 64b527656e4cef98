// Causal attention by NVIDIA's cuDNN, a peer of ours, through its C interface: a graph of products,
// pointwise operations and reductions that it fuses. Never executed: no machine of ours has a GPU.
//   B sequences of S tokens each, A heads, D and V wide
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/stream.h"

namespace sluice::kernels::vendor {

struct FusedAttention {
  int64_t sequences = 1, tokens = 0, heads = 0, qk_width = 0, v_width = 0;
};

// In BF16, as kernels/ops/attention.h lays them out: q and k [B S, A, D], v and o [B S, A, V],
// log_sum_exp [B, A, S] f32.
struct AttentionPointers {
  const void *q = nullptr, *k = nullptr, *v = nullptr;
  void* o = nullptr;
  float* log_sum_exp = nullptr;
};

// Why cuDNN cannot do it, in one sentence; OK if it can, as far as the shape says. Documents of
// unequal lengths are not its: the graph knows one length.
absl::Status CheckFusedAttention(const FusedAttention& attention);

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
