// The only file that knows all backends.
#include "kernels/core/cpu_device.h"
#include "kernels/core/device.h"
#include "kernels/core/status_macros.h"
#ifdef SLUICE_WITH_CUDA
#include "kernels/cuda/cuda_device.h"
#include "kernels/vendor/libraries.h"
#endif

namespace sluice::kernels {

#ifdef SLUICE_WITH_CUDA
namespace {

// Libraries whose headers were not there when this was built.
#ifndef SLUICE_WITH_CUBLASLT
absl::StatusOr<std::unique_ptr<cuda::DenseLibrary>> CreateDenseLibrary() {
  return absl::FailedPreconditionError(
      "cuBLASLt: this build was configured without cublasLt.h; wanted our own kernels");
}
#else
using vendor::CreateDenseLibrary;
#endif
#ifndef SLUICE_WITH_CUDNN
absl::StatusOr<std::unique_ptr<cuda::AttentionLibrary>> CreateAttentionLibrary() {
  return absl::FailedPreconditionError(
      "cuDNN: this build was configured without cudnn.h; wanted our own kernels");
}
#else
using vendor::CreateAttentionLibrary;
#endif

absl::StatusOr<cuda::Libraries> LibrariesOf(const DeviceOptions& options) {
  cuda::Libraries libraries;
  if (options.dense_by_cublaslt) {
    ASSIGN_OR_RETURN(libraries.dense, CreateDenseLibrary());
  }
  if (options.attention_by_cudnn) {
    ASSIGN_OR_RETURN(libraries.attention, CreateAttentionLibrary());
  }
  return libraries;
}

}  // namespace
#endif

absl::StatusOr<std::unique_ptr<DeviceContext>> DeviceContext::Create(const DeviceOptions& options) {
  switch (options.type) {
    case DeviceType::kCpu:
      return CreateCpuDevice(options);
    case DeviceType::kCuda:
      break;
  }
#ifdef SLUICE_WITH_CUDA
  return cuda::CreateCudaDevice(options, [&] { return LibrariesOf(options); });
#else
  return absl::FailedPreconditionError(
      "device cuda: this build has no CUDA backend (configured without nvcc, or SLUICE_CUDA=OFF); "
      "wanted device cpu");
#endif
}

}  // namespace sluice::kernels
