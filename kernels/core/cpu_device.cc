#include "kernels/core/cpu_device.h"

#include <sys/mman.h>

#include <cstring>

#include "absl/strings/str_cat.h"

namespace sluice::kernels {
namespace {

void CopyRows(const ConstTensorView& from, const TensorView& to) {
  const size_t element_bytes = SizeOf(from.dtype());
  if (from.is_contiguous() && to.is_contiguous()) {
    if (from.num_elements() > 0) {
      std::memcpy(to.raw_mutable_data(), from.raw_data(), from.bytes());
    }
    return;
  }
  const size_t row_bytes = static_cast<size_t>(from.shape().elements_per_row()) * element_bytes;
  for (int64_t row = 0; row < from.extent(0); ++row) {
    std::memcpy(static_cast<char*>(to.raw_mutable_data()) + row * to.row_stride() * element_bytes,
                static_cast<const char*>(from.raw_data()) + row * from.row_stride() * element_bytes,
                row_bytes);
  }
}

class CpuDevice : public DeviceContext {
 public:
  explicit CpuDevice(const DeviceOptions& options) : pool_(options.num_threads) {
    memory_limit_bytes_ = options.memory_limit_bytes;
    // Where nothing is computed nothing is written: the system need not have that much.
    if (options.stream_mode == CpuStreamMode::kSkipped) map_flags_ |= MAP_NORESERVE;
    for (auto& stream : streams_) stream = std::make_unique<CpuStream>(options.stream_mode, pool_);
  }
  ~CpuDevice() override {
    for (auto& stream : streams_) stream->Synchronize().IgnoreError();
  }
  DeviceId id() const override { return {}; }
  int num_threads() const override { return pool_.num_threads(); }
  Stream& stream(StreamRole role) override { return *streams_[static_cast<size_t>(role)]; }
  std::unique_ptr<Event> CreateEvent() override { return std::make_unique<CpuEvent>(); }
  void Copy(ConstTensorView from, TensorView to, Stream& stream) override {
    CHECK_EQ(from.shape(), to.shape());
    CHECK(from.dtype() == to.dtype());
    CpuStream::From(stream).Run([from, to](ThreadPool&) { CopyRows(from, to); });
  }

 protected:
  // Whole pages from the system: zero-filled, given back when freed, huge where they are large.
  void* AllocateBytes(size_t bytes) override {
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, map_flags_, -1, 0);
    if (data == MAP_FAILED) return nullptr;
    if (bytes >= kHugePageBytes) madvise(data, bytes, MADV_HUGEPAGE);
    return data;
  }
  void FreeBytes(void* data, size_t bytes) override { munmap(data, bytes); }

 private:
  static constexpr size_t kHugePageBytes = size_t{4} << 20;
  int map_flags_ = MAP_PRIVATE | MAP_ANONYMOUS;
  ThreadPool pool_;
  std::unique_ptr<CpuStream> streams_[kNumStreamRoles];
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceContext>> CreateCpuDevice(const DeviceOptions& options) {
  if (options.num_threads < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads per rank: found ", options.num_threads, ", wanted at least 1"));
  }
  return std::make_unique<CpuDevice>(options);
}

}  // namespace sluice::kernels
