// Working memory of one thread that grows and is reused, so that ops allocate nothing once every
// shape has been seen.
#pragma once

#include <cstddef>
#include <cstdlib>

#include "kernels/core/check.h"

namespace sluice::kernels::cpu {

class Scratch {
 public:
  Scratch() = default;
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // At least `count` elements, aligned to 64 bytes, with undefined content; valid until the next
  // call.
  template <typename T>
  T* Get(size_t count) {
    const size_t bytes = (count * sizeof(T) + kGranule - 1) / kGranule * kGranule;
    if (bytes > bytes_) {
      std::free(data_);
      data_ = std::aligned_alloc(kAlignment, bytes);
      CHECK(data_ != nullptr) << "out of memory for " << bytes << " bytes of scratch";
      bytes_ = bytes;
    }
    return static_cast<T*>(data_);
  }

 private:
  static constexpr size_t kAlignment = 4096, kGranule = 64 * 1024;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace sluice::kernels::cpu
