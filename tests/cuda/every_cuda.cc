#include "kernels/cuda/cuda_device.h"
#include "tests/support/every_device.h"

namespace sluice::testing {

// The CUDA device that the binary finds: the software one unless LD_LIBRARY_PATH says otherwise.
std::vector<DeviceCase> AllDevices() {
  using kernels::DeviceType;
  DeviceCase device;
  device.name = "cuda";
  device.create = [] { return kernels::cuda::CreateCudaDevice({.type = DeviceType::kCuda}); };
  device.memory = {.device = {.type = DeviceType::kCuda},
                   .allocate = kernels::cuda::AllocateManaged,
                   .free = kernels::cuda::FreeManaged};
  return {device};
}

}  // namespace sluice::testing
