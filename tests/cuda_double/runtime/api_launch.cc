// Registration and launching: what code compiled by nvcc calls, and the double's own controls.
#include <cuda_runtime_api.h>

#include <mutex>
#include <vector>

#include "tests/cuda_double/runtime/control.h"
#include "tests/cuda_double/runtime/runtime.h"

using sluice::cuda_double::Extent;
using sluice::cuda_double::Runtime;

namespace {

using Lock = std::lock_guard<std::mutex>;

Extent ExtentOf(dim3 d) { return {d.x, d.y, d.z}; }

// Between <<<...>>> and the launch.
struct CallConfiguration {
  dim3 grid, block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};
std::vector<CallConfiguration>& PushedConfigurations() {
  thread_local std::vector<CallConfiguration> pushed;
  return pushed;
}

cudaError_t LaunchNow(const void* function, const CallConfiguration& call, void** arguments) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  return runtime.EnqueueLaunch({.function = function,
                                .grid = ExtentOf(call.grid),
                                .block = ExtentOf(call.block),
                                .shared_bytes = call.shared_bytes,
                                .arguments = arguments,
                                .stream = runtime.Stream(call.stream)});
}

}  // namespace

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  runtime.RegisterFatBinary(wrapper);
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}

void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, uint3*,
                            uint3*, dim3*, dim3*, int*) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  runtime.RegisterFunction(function, name);
}

// Variables of device code have no storage here: a kernel that names one fails to load.
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes,
                                     cudaStream_t stream) {
  PushedConfigurations().push_back({grid, block, shared_bytes, stream});
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes,
                                       void* stream) {
  const CallConfiguration call = PushedConfigurations().back();
  PushedConfigurations().pop_back();
  *grid = call.grid;
  *block = call.block;
  *shared_bytes = call.shared_bytes;
  *static_cast<cudaStream_t*>(stream) = call.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t shared_bytes, cudaStream_t stream) {
  return LaunchNow(reinterpret_cast<const void*>(kernel), {grid, block, shared_bytes, stream},
                   arguments);
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                             size_t shared_bytes, cudaStream_t stream) {
  return LaunchNow(function, {grid, block, shared_bytes, stream}, arguments);
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) {
    return runtime.Break(cudaErrorNotSupported,
                         "cudaFuncSetAttribute: this attribute is not modelled");
  }
  return runtime.SetDynamicShared(function, value);
}

void cuda_double_accumulate(int accumulator) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  runtime.SynchronizeAll();
  auto configuration = sluice::cuda_double::ConfigurationOfEnvironment();
  if (accumulator >= 0) {
    configuration.accumulator = static_cast<sluice::cuda_double::Accumulator>(accumulator);
  }
  runtime.Configure(configuration);
}

const char* cuda_double_report() {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  return runtime.report().c_str();
}

void cuda_double_reset() {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  runtime.SynchronizeAll();
  runtime.ForgetErrors();
}

}  // extern "C"
