// Whether this build has NCCL: it needs a CUDA backend and nccl.h.
#include "absl/status/status.h"
#include "parallel/nccl/nccl_session.h"
#ifdef SLUICE_WITH_NCCL
#include "parallel/nccl/create_session.h"
#endif

namespace sluice::parallel {

absl::StatusOr<std::unique_ptr<NcclSession>> NcclSession::Create(
    [[maybe_unused]] kernels::DeviceContext& device, [[maybe_unused]] const NcclOptions& options) {
#ifdef SLUICE_WITH_NCCL
  return CreateNcclSession(device, options);
#else
  return absl::FailedPreconditionError(
      "compute.collectives nccl: this build has no NCCL (configured without a CUDA toolkit or "
      "without nccl.h); wanted host");
#endif
}

}  // namespace sluice::parallel
