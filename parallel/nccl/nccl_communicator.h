// A group of ranks whose GPUs talk by NCCL; nccl_session.h says what it promises.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "parallel/comm/communicator.h"
#include "parallel/nccl/nccl_rank.h"

namespace sluice::parallel {

// `host`: two ranks or more. Collective; `rank` must outlive the result.
absl::StatusOr<std::unique_ptr<Communicator>> CreateNcclCommunicator(
    std::unique_ptr<Communicator> host, NcclRank& rank);

}  // namespace sluice::parallel
