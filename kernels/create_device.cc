// The only file that knows all backends.
#include "kernels/core/cpu_device.h"
#include "kernels/core/device.h"
#ifdef SLUICE_WITH_CUDA
#include "kernels/cuda/cuda_device.h"
#endif

namespace sluice::kernels {

absl::StatusOr<std::unique_ptr<DeviceContext>> DeviceContext::Create(const DeviceOptions& options) {
  switch (options.type) {
    case DeviceType::kCpu:
      return CreateCpuDevice(options);
    case DeviceType::kCuda:
      break;
  }
#ifdef SLUICE_WITH_CUDA
  return cuda::CreateCudaDevice(options);
#else
  return absl::FailedPreconditionError(
      "device cuda: this build has no CUDA backend (configured without nvcc, or SLUICE_CUDA=OFF); "
      "wanted device cpu");
#endif
}

}  // namespace sluice::kernels
