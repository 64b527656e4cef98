// Device memory for activations and temporaries: blocks that are handed out and taken back, and
// never returned to the device. Once every size has been seen, a step allocates nothing.
//
// Blocks are taken and given back in the order in which work is enqueued, which on two streams is
// not the order in which it runs. So a block remembers on which stream it was given back; before
// another stream may write to it, that stream waits for the first by an event.
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

  // The stream on which work is enqueued from now on: it uses what is acquired, and what is
  // released is free once its work so far is done. At first the compute stream.
  void Enter(kernels::StreamRole role) { role_ = role; }
  // All streams are synchronized: nothing has to be waited for.
  void Settle();

  // A block of at least `bytes`, contents undefined. Ends the run when there is none.
  int Acquire(size_t bytes);
  void Release(int block);
  TensorView View(int block, DType dtype, const Shape& shape) const;
  int64_t held_bytes() const { return held_bytes_; }

 private:
  struct Block {
    kernels::Buffer buffer;
    kernels::StreamRole released_on = kernels::StreamRole::kCompute;
    uint64_t released_at = 0;  // in counts of `clock_`
  };
  static size_t SizeClass(size_t bytes);
  int TakeFrom(std::vector<int>& blocks);
  bool MustWait(const Block& block) const;

  kernels::DeviceContext& device_;
  OutOfMemory out_of_memory_;
  Log log_;
  std::vector<Block> blocks_;
  std::map<size_t, std::vector<int>> free_by_size_;
  int64_t held_bytes_ = 0;
  kernels::StreamRole role_ = kernels::StreamRole::kCompute;
  uint64_t clock_ = 1;  // releases so far
  // [later][earlier] every release on `earlier` before this time is done for `later`.
  uint64_t waited_[kernels::kNumStreamRoles][kernels::kNumStreamRoles] = {};
  std::unique_ptr<kernels::Event> event_;  // made when first needed
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
