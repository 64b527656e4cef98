#pragma once

#include <memory>

#include "kernels/core/device.h"

namespace sluice::kernels {

// The CPU as a device. INVALID_ARGUMENT when options.num_threads < 1.
absl::StatusOr<std::unique_ptr<DeviceContext>> CreateCpuDevice(const DeviceOptions& options);

}  // namespace sluice::kernels
