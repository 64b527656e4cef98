// What all NCCL communicators of one rank share: the library, the device, and the watch over them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "kernels/cuda/watched_stream.h"
#include "parallel/comm/communicator.h"
#include "parallel/nccl/nccl_library.h"

namespace sluice::parallel {

// One thread.
class NcclRank {
 public:
  NcclRank(std::shared_ptr<const NcclLibrary> nccl, kernels::DeviceContext& device,
           int64_t scratch_bytes)
      : nccl_(std::move(nccl)), device_(device), scratch_bytes_(scratch_bytes) {}

  const NcclLibrary& nccl() const { return *nccl_; }
  kernels::DeviceContext& device() { return device_; }
  int64_t scratch_bytes() const { return scratch_bytes_; }  // what a reduction receives at a time

  // A communicator of `num_ranks`, all of which call this with the id that one of them made.
  absl::StatusOr<ncclComm_t> Open(const ncclUniqueId& id, int num_ranks, int rank);
  // Waits for nothing; after an error there is nothing left to close.
  void Close(ncclComm_t comm);
  absl::StatusOr<ncclUniqueId> MakeId() const;

  // Whether a communicator has failed since it was given work (a peer that is gone, a link). The
  // first time all are aborted, which ends what waits on streams; the error stays.
  absl::Status Check();

 private:
  const std::shared_ptr<const NcclLibrary> nccl_;
  kernels::DeviceContext& device_;
  const int64_t scratch_bytes_;
  std::vector<ncclComm_t> open_;
  absl::Status failed_;
};

}  // namespace sluice::parallel
