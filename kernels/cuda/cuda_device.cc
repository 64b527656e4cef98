#include "kernels/cuda/cuda_device.h"

#include <cuda_runtime_api.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "kernels/cuda/watched_stream.h"

namespace sluice::kernels::cuda {
namespace {

constexpr int kWantedMajor = 9, kWantedMinor = 0;

class CudaDevice : public DeviceContext {
 public:
  CudaDevice(const DeviceOptions& options, DeviceId id, Libraries libraries)
      : id_(id),
        num_host_threads_(options.num_threads),
        libraries_(std::move(libraries)),
        memory_stream_(id) {
    memory_limit_bytes_ = options.memory_limit_bytes;
    for (size_t role = 0; role < kNumStreamRoles; ++role) {
      CudaStreamOptions of_stream = {.only_mma_sync = options.only_mma_sync};
      if (role == static_cast<size_t>(StreamRole::kCompute)) {
        of_stream.dense = libraries_.dense.get();
        of_stream.attention = libraries_.attention.get();
      }
      streams_[role] = std::make_unique<WatchedStream>(id, of_stream);
    }
  }
  ~CudaDevice() override {
    for (auto& stream : streams_) stream->Synchronize().IgnoreError();
    memory_stream_.Synchronize().IgnoreError();
  }
  DeviceId id() const override { return id_; }
  int num_threads() const override { return num_host_threads_; }
  std::string libraries() const override {
    std::string names;
    if (libraries_.dense != nullptr) {
      absl::StrAppend(&names, "dense products by ", libraries_.dense->Name());
    }
    if (libraries_.attention != nullptr) {
      absl::StrAppend(&names, names.empty() ? "" : ", ", "attention's forward by ",
                      libraries_.attention->Name());
    }
    return names;
  }
  Stream& stream(StreamRole role) override { return *streams_[static_cast<size_t>(role)]; }
  std::unique_ptr<Event> CreateEvent() override { return std::make_unique<CudaEvent>(); }

  OwnMemory own_memory() const override {
    size_t free = 0, total = 0;
    char bus[32] = "";
    if (cudaMemGetInfo(&free, &total) != cudaSuccess ||
        cudaDeviceGetPCIBusId(bus, sizeof(bus), id_.index) != cudaSuccess) {
      cudaGetLastError();  // it is not known, then
      return {};
    }
    return {.free_bytes = static_cast<int64_t>(free), .name = absl::StrCat("GPU ", bus)};
  }

  void Copy(ConstTensorView from, TensorView to, Stream& stream) override {
    CudaStream::From(stream).Copy(from, to);
  }

 protected:
  // On a stream of its own. cudaFree would wait for all work of the device, and two ranks whose
  // messages to each other are under way would wait for each other.
  void* AllocateBytes(size_t bytes) override {
    void* data = nullptr;
    if (cudaMallocAsync(&data, bytes, memory_stream_.handle()) != cudaSuccess) {
      cudaGetLastError();  // out of memory is reported by the caller
      return nullptr;
    }
    cudaError_t code = cudaMemsetAsync(data, 0, bytes, memory_stream_.handle());
    if (code == cudaSuccess) code = cudaStreamSynchronize(memory_stream_.handle());
    CHECK(code == cudaSuccess) << cudaGetErrorString(code);
    return data;
  }
  // Freed once what the streams hold now is done.
  void FreeBytes(void* data, size_t) override {
    for (auto& stream : streams_) {
      stream->Record(before_free_);
      memory_stream_.Wait(before_free_);
    }
    cudaFreeAsync(data, memory_stream_.handle());
  }

 private:
  const DeviceId id_;
  const int num_host_threads_;
  const Libraries libraries_;
  std::unique_ptr<WatchedStream> streams_[kNumStreamRoles];
  CudaStream memory_stream_;
  CudaEvent before_free_;
};

absl::Status CheckCapability(int device) {
  int major = 0, minor = 0;
  RETURN_IF_ERROR(StatusOf(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "attributes"));
  RETURN_IF_ERROR(StatusOf(
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "attributes"));
  if (major == kWantedMajor && minor == kWantedMinor) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("device cuda: compute capability of device ", device, ": found ", major, ".",
                   minor, ", wanted ", kWantedMajor, ".", kWantedMinor, " (Hopper)"));
}

// A rank that sees one GPU takes it: the launcher has shown each its own by CUDA_VISIBLE_DEVICES.
absl::StatusOr<int> DeviceOfRank(const DeviceOptions& options, int count) {
  if (count == 1) return 0;
  if (options.rank_on_host < count) return options.rank_on_host;
  return absl::FailedPreconditionError(absl::StrCat("device cuda: ", options.ranks_on_host,
                                                    " ranks on this host, found ", count,
                                                    " GPUs, wanted one for each rank"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceContext>> CreateCudaDevice(
    const DeviceOptions& options, const MakeLibraries& make_libraries) {
  if (options.num_threads < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads per rank: found ", options.num_threads, ", wanted at least 1"));
  }
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code != cudaSuccess || count == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("device cuda: found no usable GPU (",
                     code == cudaSuccess ? "the driver lists none" : cudaGetErrorString(code),
                     "), wanted one of compute capability 9.0 and its driver"));
  }
  ASSIGN_OR_RETURN(const int device, DeviceOfRank(options, count));
  RETURN_IF_ERROR(CheckCapability(device));
  RETURN_IF_ERROR(StatusOf(cudaSetDevice(device), "choosing the device"));
  Libraries libraries;
  if (make_libraries != nullptr) {
    ASSIGN_OR_RETURN(libraries, make_libraries());
  }
  return std::make_unique<CudaDevice>(options, DeviceId{.type = DeviceType::kCuda, .index = device},
                                      std::move(libraries));
}

void* AllocateManaged(size_t bytes) {
  void* data = nullptr;
  if (cudaMallocManaged(&data, bytes, cudaMemAttachGlobal) != cudaSuccess) return nullptr;
  std::memset(data, 0, bytes);
  return data;
}

void FreeManaged(void* data) { cudaFree(data); }

}  // namespace sluice::kernels::cuda
