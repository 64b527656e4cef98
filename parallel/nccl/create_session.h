// Between create.cc, which knows whether NCCL is built, and nccl_session.cc, which needs it.
#pragma once

#include "parallel/nccl/nccl_session.h"

namespace sluice::parallel {

absl::StatusOr<std::unique_ptr<NcclSession>> CreateNcclSession(kernels::DeviceContext& device,
                                                               const NcclOptions& options);

}  // namespace sluice::parallel
