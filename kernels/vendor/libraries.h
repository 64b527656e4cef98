// NVIDIA's libraries behind the interfaces that the CUDA backend calls.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/libraries.h"

namespace sluice::kernels::vendor {

// For the device that is current. FAILED_PRECONDITION: the library cannot be loaded, or lacks a
// function; INTERNAL: it says why it cannot begin.
absl::StatusOr<std::unique_ptr<cuda::DenseLibrary>> CreateDenseLibrary();          // cuBLASLt
absl::StatusOr<std::unique_ptr<cuda::AttentionLibrary>> CreateAttentionLibrary();  // cuDNN

}  // namespace sluice::kernels::vendor
