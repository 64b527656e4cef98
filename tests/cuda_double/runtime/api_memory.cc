// Memory: allocation, copies, fills.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "tests/cuda_double/runtime/runtime.h"

using namespace sluice::cuda_double;  // NOLINT: this file is the outside of that namespace

namespace {

using Lock = std::lock_guard<std::mutex>;

cudaError_t Allocate(void** data, size_t bytes, MemoryKind kind) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  if (const cudaError_t refused = runtime.RefuseInCapture("an allocation");
      refused != cudaSuccess) {
    return refused;
  }
  *data = bytes == 0 ? nullptr : runtime.memory().Allocate(bytes, kind);
  if (*data == nullptr && bytes != 0) return runtime.Finish(cudaErrorMemoryAllocation);
  return runtime.Finish(cudaSuccess);
}

// Waits for everything, as the real one does.
cudaError_t Free(void* data) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  if (const cudaError_t refused = runtime.RefuseInCapture("cudaFree"); refused != cudaSuccess) {
    return refused;
  }
  if (data == nullptr) return runtime.Finish(cudaSuccess);
  runtime.SynchronizeAll();
  if (!runtime.memory().Free(data)) {
    return runtime.Break(cudaErrorInvalidValue, "cudaFree of what is no allocation, or freed");
  }
  return runtime.Finish(cudaSuccess);
}

// Rows of a copy or a fill.
struct RowsOfBytes {
  char* to = nullptr;
  size_t to_pitch = 0;
  const char* from = nullptr;  // null: a fill
  size_t from_pitch = 0;
  size_t width = 0, height = 0;
  int value = 0;
};

bool IsOnDevice(const void* data) {
  const GlobalMemory& memory = Runtime::Get().memory();
  return memory.IsKnown(data, MemoryKind::kDevice) || memory.IsKnown(data, MemoryKind::kManaged);
}

std::string Run(const RowsOfBytes& rows, OpId op) {
  GlobalMemory& memory = Runtime::Get().memory();
  const Accessor who{.op = op, .block = 1};
  for (size_t i = 0; i < rows.height; ++i) {
    char* to = rows.to + i * rows.to_pitch;
    const char* from = rows.from == nullptr ? nullptr : rows.from + i * rows.from_pitch;
    std::string why;
    if (from != nullptr && IsOnDevice(from)) {
      why = memory.Touch(reinterpret_cast<uint64_t>(from), rows.width, AccessKind::kRead, who);
    }
    if (why.empty() && IsOnDevice(to)) {
      why = memory.Touch(reinterpret_cast<uint64_t>(to), rows.width, AccessKind::kWrite, who);
    }
    if (!why.empty()) return "a copy " + why;
    if (from != nullptr) {
      std::memmove(to, from, rows.width);
    } else {
      std::memset(to, rows.value, rows.width);
    }
  }
  return "";
}

// Pageable host memory is staged: read before the call returns, and written before it returns.
cudaError_t Copy(RowsOfBytes rows, cudaStream_t handle) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  if (rows.width == 0 || rows.height == 0) return runtime.Finish(cudaSuccess);
  StreamState& stream = *runtime.Stream(handle);
  const auto is_pageable = [&](const void* data) {
    return !IsOnDevice(data) && !runtime.memory().IsKnown(data, MemoryKind::kPinned);
  };
  const bool waits = is_pageable(rows.to);
  if (waits || is_pageable(rows.from)) {
    const cudaError_t refused = runtime.RefuseInCapture("a copy of pageable host memory");
    if (refused != cudaSuccess) return refused;
  }
  std::vector<char> staged;
  if (is_pageable(rows.from)) {
    staged.resize(rows.width * rows.height);
    for (size_t i = 0; i < rows.height; ++i) {
      std::memcpy(&staged[i * rows.width], rows.from + i * rows.from_pitch, rows.width);
    }
    rows.from_pitch = rows.width;
  }
  const cudaError_t code =
      runtime.Enqueue(stream, "a copy", [rows, staged = std::move(staged)](OpId op) mutable {
        if (!staged.empty()) rows.from = staged.data();
        return Run(rows, op);
      });
  return waits && code == cudaSuccess ? runtime.Synchronize(stream) : code;
}

cudaError_t FillBytes(void* data, int value, size_t bytes, cudaStream_t handle) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  if (bytes == 0) return runtime.Finish(cudaSuccess);
  if (!IsOnDevice(data)) {
    return runtime.Break(cudaErrorInvalidValue, "cudaMemset of what is not device memory");
  }
  const RowsOfBytes rows = {
      .to = static_cast<char*>(data), .width = bytes, .height = 1, .value = value};
  return runtime.Enqueue(*runtime.Stream(handle), "a fill",
                         [rows](OpId op) { return Run(rows, op); });
}

cudaError_t WaitForDefaultStream(cudaError_t code) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  return code == cudaSuccess ? runtime.Synchronize(*runtime.Stream(nullptr)) : code;
}

}  // namespace

extern "C" {

// An H100's memory, all of it free. CUDA_DOUBLE_MEMORY=bytes plays a smaller one (that bounds
// nothing).
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const char* text = std::getenv("CUDA_DOUBLE_MEMORY");
  *free = *total = text != nullptr ? std::strtoull(text, nullptr, 10) : size_t{80} << 30;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** data, size_t bytes) {
  return Allocate(data, bytes, MemoryKind::kDevice);
}
// Ready at once; the order of the stream holds for freeing.
cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t) {
  return Allocate(data, bytes, MemoryKind::kDevice);
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  if (const cudaError_t refused = runtime.RefuseInCapture("cudaFreeAsync");
      refused != cudaSuccess) {
    return refused;
  }
  return runtime.Enqueue(*runtime.Stream(stream), "freeing", [data](OpId) {
    return std::string(Runtime::Get().memory().Free(data)
                           ? ""
                           : "cudaFreeAsync of what is no allocation, or freed");
  });
}
cudaError_t cudaMallocManaged(void** data, size_t bytes, unsigned) {
  return Allocate(data, bytes, MemoryKind::kManaged);
}
cudaError_t cudaMallocHost(void** data, size_t bytes) {
  return Allocate(data, bytes, MemoryKind::kPinned);
}
cudaError_t cudaFree(void* data) { return Free(data); }
cudaError_t cudaFreeHost(void* data) { return Free(data); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  return Copy({.to = static_cast<char*>(to),
               .from = static_cast<const char*>(from),
               .width = bytes,
               .height = 1},
              stream);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind, cudaStream_t stream) {
  return Copy({.to = static_cast<char*>(to),
               .to_pitch = to_pitch,
               .from = static_cast<const char*>(from),
               .from_pitch = from_pitch,
               .width = width,
               .height = height},
              stream);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return WaitForDefaultStream(cudaMemcpyAsync(to, from, bytes, kind, nullptr));
}
cudaError_t cudaMemset(void* data, int value, size_t bytes) {
  return FillBytes(data, value, bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  return FillBytes(data, value, bytes, stream);
}

}  // extern "C"
