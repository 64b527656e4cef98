// Device memory for activations and temporaries: blocks that are handed out and taken back, and
// never returned to the device. Once every size has been seen, a step allocates nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/core/device.h"

namespace sluice::trainer {

using kernels::ConstTensorView;
using kernels::DType;
using kernels::Shape;
using kernels::Stream;
using kernels::TensorView;

class ActivationPool {  // one thread
 public:
  using OutOfMemory = std::function<void(const absl::Status&)>;  // must not return
  using Log = std::function<void(const std::string&)>;

  // `out_of_memory` ends the run: in the middle of a step there is nothing to go back to. `log`
  // (may be null) hears of growth.
  ActivationPool(kernels::DeviceContext& device, OutOfMemory out_of_memory, Log log);

  // A block of at least `bytes`, contents undefined. Ends the run when there is none.
  int Acquire(size_t bytes);
  void Release(int block);
  TensorView View(int block, DType dtype, const Shape& shape) const;
  int64_t held_bytes() const { return held_bytes_; }

 private:
  static size_t SizeClass(size_t bytes);

  kernels::DeviceContext& device_;
  OutOfMemory out_of_memory_;
  Log log_;
  std::vector<kernels::Buffer> blocks_;
  std::map<size_t, std::vector<int>> free_by_size_;
  int64_t held_bytes_ = 0;
};

// A temporary tensor, given back at the end of its scope.
class Temporary {
 public:
  Temporary(ActivationPool& pool, DType dtype, const Shape& shape)
      : pool_(pool),
        block_(pool.Acquire(static_cast<size_t>(shape.num_elements()) * kernels::SizeOf(dtype))),
        view_(pool.View(block_, dtype, shape)) {}
  ~Temporary() { pool_.Release(block_); }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  const TensorView& view() const { return view_; }

 private:
  ActivationPool& pool_;
  int block_;
  TensorView view_;
};

}  // namespace sluice::trainer
