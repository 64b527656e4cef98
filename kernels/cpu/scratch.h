// Working memory of one thread that grows and is reused, so that ops allocate nothing once every
// shape has been seen. It grows by whole MiB (pages that are never touched cost nothing), so that
// the fullest expert of a later step seldom needs more.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "kernels/core/check.h"

namespace sluice::kernels::cpu {

class Scratch {
 public:
  Scratch() = default;
  ~Scratch() { Free(); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // At least `count` elements, aligned to 64 bytes, with undefined content; valid until the next
  // call.
  template <typename T>
  T* Get(size_t count) {
    const size_t bytes = (count * sizeof(T) + kGranule - 1) / kGranule * kGranule;
    if (bytes > bytes_) {
      Free();
      data_ = std::aligned_alloc(kAlignment, bytes);
      CHECK(data_ != nullptr) << "out of memory for " << bytes << " bytes of scratch";
      bytes_ = bytes;
      total_bytes_.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed);
    }
    return static_cast<T*>(data_);
  }

  // Held by all threads of this process now.
  static int64_t total_bytes() { return total_bytes_.load(std::memory_order_relaxed); }

 private:
  void Free() {
    std::free(data_);
    total_bytes_.fetch_sub(static_cast<int64_t>(bytes_), std::memory_order_relaxed);
    data_ = nullptr;
    bytes_ = 0;
  }

  static constexpr size_t kAlignment = 4096, kGranule = 1024 * 1024;
  static inline std::atomic<int64_t> total_bytes_{0};
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace sluice::kernels::cpu
