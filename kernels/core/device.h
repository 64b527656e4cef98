// All that one rank needs of its device: memory, streams, events, copies. Made in main() and passed
// by reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/cpu_stream.h"
#include "kernels/core/memory_table.h"
#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

enum class StreamRole : uint8_t { kCompute, kComm, kCopy };
inline constexpr int kNumStreamRoles = 3;

class DeviceContext;

// Owns bytes on one device; move-only. Must not outlive its DeviceContext.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  size_t size() const { return size_; }
  bool is_empty() const { return data_ == nullptr; }
  // A view of [offset_bytes, ...); CHECKs that it lies inside and that the offset suits the type.
  TensorView View(DType dtype, Shape shape, size_t offset_bytes = 0) const;

 private:
  friend class DeviceContext;
  DeviceContext* owner_ = nullptr;
  void* data_ = nullptr;
  size_t size_ = 0;
  MemoryTag tag_ = MemoryTag::kScratch;
};

struct DeviceOptions {
  DeviceType type = DeviceType::kCpu;
  int num_threads = 1;                                 // CPU: threads of this rank's pool
  CpuStreamMode stream_mode = CpuStreamMode::kInline;  // CPU
  size_t memory_limit_bytes = 0;                       // 0: none of our own
  int rank_on_host = 0, ranks_on_host = 1;  // CUDA: which of the GPUs that the process can see
  bool only_mma_sync = false;  // CUDA: products and attention by mma.sync, never by wgmma
  // CUDA: NVIDIA's libraries in place of our kernels, where they can do the shape.
  bool dense_by_cublaslt = false, attention_by_cudnn = false;
};

// What Allocate draws on, where that is not the host's memory. All that share it see the same name,
// "GPU 0000:3b:00.0".
struct OwnMemory {
  int64_t free_bytes = 0;  // now; 0: unknown, or the host's memory
  std::string name;
};

class DeviceContext {
 public:
  virtual ~DeviceContext() = default;
  // INVALID_ARGUMENT for an option out of range, FAILED_PRECONDITION for a device this build or
  // machine lacks.
  static absl::StatusOr<std::unique_ptr<DeviceContext>> Create(const DeviceOptions& options);

  virtual DeviceId id() const = 0;
  virtual int num_threads() const = 0;  // of the host that serve this rank
  // Who computes in place of our kernels, and what; "": nobody.
  virtual std::string libraries() const { return ""; }
  virtual Stream& stream(StreamRole role) = 0;
  virtual std::unique_ptr<Event> CreateEvent() = 0;
  virtual OwnMemory own_memory() const { return {}; }
  // Zero-filled, aligned to 64 bytes at least. RESOURCE_EXHAUSTED carries the memory table in one
  // line.
  absl::StatusOr<Buffer> Allocate(size_t bytes, MemoryTag tag);
  // Copies equal shapes and dtypes; rows may be strided.
  virtual void Copy(ConstTensorView from, TensorView to, Stream& stream) = 0;
  const MemoryTable& memory() const { return memory_; }
  // Bytes held for this device's ops that Allocate did not hand out; negative: freed.
  void CountElsewhere(MemoryTag tag, int64_t bytes) { memory_.Add(tag, bytes); }

 protected:
  friend class Buffer;
  virtual void* AllocateBytes(size_t bytes) = 0;  // null when there is none
  virtual void FreeBytes(void* data, size_t bytes) = 0;
  size_t memory_limit_bytes_ = 0;
  MemoryTable memory_;
};

}  // namespace sluice::kernels
