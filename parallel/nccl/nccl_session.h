// Messages between GPUs by NVIDIA's NCCL. The library is loaded when a session is made, so a rank
// that computes on the CPU pays nothing for it and needs none.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "parallel/comm/communicator.h"

namespace sluice::parallel {

struct NcclOptions {
  // Names or paths to try in order; empty: libnccl.so.2 as the loader finds it, then the one that
  // was found at configuration.
  std::vector<std::string> libraries;
  int64_t scratch_bytes = int64_t{64} << 20;  // of the device: what a reduction receives at a time
};

class NcclSession {
 public:
  // `device` is the GPU of this rank and must outlive the session; an error of the library that
  // comes later (a peer that is gone, a link that fails) ends what its streams wait for and comes
  // out of their Synchronize.
  // FAILED_PRECONDITION: a build without NCCL, no library (what was tried), or one too old.
  static absl::StatusOr<std::unique_ptr<NcclSession>> Create(kernels::DeviceContext& device,
                                                             const NcclOptions& options = {});
  virtual ~NcclSession() = default;

  // The group of `host` (MPI, say) for tensors of the device as well, which NCCL moves; those of
  // the CPU go through `host`. Collective. Reductions are in ascending rank order as everywhere:
  // NCCL only moves the parts, the sum is ours. Calls return when the work is enqueued. A group of
  // one needs no NCCL. The session must outlive the result; so must it the groups split from it.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> Wrap(
      std::unique_ptr<Communicator> host) = 0;
  // "NCCL 2.28.9 (libnccl.so.2)"
  virtual std::string Describe() const = 0;
};

}  // namespace sluice::parallel
