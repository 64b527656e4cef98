#include <dlfcn.h>

#include "kernels/cuda/cuda_device.h"
#include "tests/support/every_device.h"

namespace sluice::testing {

namespace {

// A kernel's error breaks the context for good, on the software device until it is reset: the next
// test starts afresh there.
void ResetTheDouble() {
  if (void* reset = dlsym(RTLD_DEFAULT, "cuda_double_reset")) {
    reinterpret_cast<void (*)()>(reset)();
  }
}

}  // namespace

// The CUDA device that the binary finds: the software one unless LD_LIBRARY_PATH says otherwise.
std::vector<DeviceCase> AllDevices() {
  using kernels::DeviceType;
  DeviceCase device;
  device.name = "cuda";
  device.create = [] {
    ResetTheDouble();
    return kernels::cuda::CreateCudaDevice({.type = DeviceType::kCuda});
  };
  device.memory = {.device = {.type = DeviceType::kCuda},
                   .allocate = kernels::cuda::AllocateManaged,
                   .free = kernels::cuda::FreeManaged};
  if (dlsym(RTLD_DEFAULT, "cuda_double_reset") != nullptr) device.work_limit = 2.5e6;
  return {device};
}

}  // namespace sluice::testing
