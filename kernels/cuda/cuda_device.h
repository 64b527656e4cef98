// A Hopper GPU as a DeviceContext, by CUDA's runtime library.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "kernels/cuda/libraries.h"

namespace sluice::kernels::cuda {

// FAILED_PRECONDITION with found and wanted where there is no driver, no device, or one of another
// compute capability than 9.0; what `make_libraries` says. Its libraries serve the compute stream.
absl::StatusOr<std::unique_ptr<DeviceContext>> CreateCudaDevice(
    const DeviceOptions& options, const MakeLibraries& make_libraries = nullptr);

// Memory that host and device both read and write by one address (the ops' tests hold their tensors
// in it); zero-filled. Null when there is none.
void* AllocateManaged(size_t bytes);
void FreeManaged(void* data);

}  // namespace sluice::kernels::cuda
