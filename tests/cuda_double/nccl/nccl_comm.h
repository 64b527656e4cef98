// A communicator of the double, and the calls of a group that are not yet enqueued.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/cuda_double/nccl/transfer.h"
#include "tests/cuda_double/runtime/runtime.h"

namespace sluice::cuda_double {

// Shared with the work that it has enqueued. Guarded by the runtime's mutex.
struct CommState {
  std::shared_ptr<SharedGroup> group;
  int rank = 0;
  uint64_t num_enqueued = 0, num_done = 0;  // calls run one after the other, on whatever stream
  bool is_aborted = false;
  std::string last_error;
};

// The transfers of one call, or of all calls of a group on one communicator.
struct Call {
  std::shared_ptr<CommState> comm;
  cudaStream_t stream = nullptr;
  std::vector<Transfer> transfers;
};

// Enqueues it as one operation of its stream. Under the runtime's mutex.
cudaError_t Enqueue(Runtime& runtime, Call call);

}  // namespace sluice::cuda_double

struct ncclComm {
  std::shared_ptr<sluice::cuda_double::CommState> state;
};
