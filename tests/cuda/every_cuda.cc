#include <dlfcn.h>

#include <cstdlib>

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

// After a kernel's error there is no managed memory any more. The test that met it has failed; it
// goes on with other memory, so that the next one is reached.
void* AllocateAnyway(size_t bytes) {
  void* data = kernels::cuda::AllocateManaged(bytes);
  return data != nullptr ? data : std::calloc(1, bytes);
}

}  // namespace

// The CUDA device that the binary finds: the software one unless LD_LIBRARY_PATH says otherwise. As
// it is, and without Hopper's own matrix products.
std::vector<DeviceCase> AllDevices() {
  using kernels::DeviceType;
  DeviceCase device;
  device.name = "cuda";
  device.create = [] {
    ResetTheDouble();
    return kernels::cuda::CreateCudaDevice({.type = DeviceType::kCuda});
  };
  device.memory = {.device = {.type = DeviceType::kCuda},
                   .allocate = AllocateAnyway,
                   .free = kernels::cuda::FreeManaged};
  if (dlsym(RTLD_DEFAULT, "cuda_double_reset") != nullptr) device.work_limit = 2.5e6;
  DeviceCase mma = device;
  mma.name = "cuda_mma";
  mma.create = [] {
    ResetTheDouble();
    return kernels::cuda::CreateCudaDevice({.type = DeviceType::kCuda, .only_mma_sync = true});
  };
  return {device, mma};
}

}  // namespace sluice::testing
