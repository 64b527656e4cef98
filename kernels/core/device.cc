#include "kernels/core/device.h"

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace sluice::kernels {

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(owner_, other.owner_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(tag_, other.tag_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  owner_->FreeBytes(data_, size_);
  owner_->memory_.Add(tag_, -static_cast<int64_t>(size_));
}

TensorView Buffer::View(DType dtype, Shape shape, size_t offset_bytes) const {
  const size_t bytes = static_cast<size_t>(shape.num_elements()) * SizeOf(dtype);
  CHECK(offset_bytes % SizeOf(dtype) == 0) << offset_bytes << " for " << NameOf(dtype).data();
  CHECK_LE(offset_bytes + bytes, size_) << shape << " " << NameOf(dtype).data();
  return TensorView(static_cast<char*>(data_) + offset_bytes, dtype, shape,
                    owner_ != nullptr ? owner_->id() : DeviceId{});
}

absl::StatusOr<Buffer> DeviceContext::Allocate(size_t bytes, MemoryTag tag) {
  Buffer buffer;
  if (bytes == 0) return buffer;
  const bool within =
      memory_limit_bytes_ == 0 || memory_.total_bytes() + bytes <= memory_limit_bytes_;
  void* data = within ? AllocateBytes(bytes) : nullptr;
  if (data == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for ", bytes, " bytes of ", NameOf(tag),
                     within ? "" : absl::StrCat(" within the limit of ", memory_limit_bytes_),
                     "; MiB held: ", memory_.OneLine()));
  }
  buffer.owner_ = this;
  buffer.data_ = data;
  buffer.size_ = bytes;
  buffer.tag_ = tag;
  memory_.Add(tag, static_cast<int64_t>(bytes));
  return buffer;
}

}  // namespace sluice::kernels
