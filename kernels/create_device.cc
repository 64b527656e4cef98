// The only file that knows all backends.
#include "kernels/core/cpu_device.h"
#include "kernels/core/device.h"

namespace sluice::kernels {

absl::StatusOr<std::unique_ptr<DeviceContext>> DeviceContext::Create(const DeviceOptions& options) {
  switch (options.type) {
    case DeviceType::kCpu: return CreateCpuDevice(options);
    case DeviceType::kCuda: break;
  }
  return absl::FailedPreconditionError("device cuda: this build has no CUDA backend; wanted device cpu");
}

}  // namespace sluice::kernels
