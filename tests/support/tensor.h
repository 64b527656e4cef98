// A tensor that a test owns, with a view; rows may be strided.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <vector>

#include "kernels/core/tensor_view.h"

namespace sluice::testing {

// Where tensors lie: on the CPU, or in memory that a device and the host both see. `allocate` gives
// zero-filled bytes.
struct TensorMemory {
  kernels::DeviceId device;
  std::function<void*(size_t bytes)> allocate;
  std::function<void(void*)> free;
};
// For tensors made from now on; {} for the CPU.
void SetTensorMemory(const TensorMemory& memory);

class Tensor {
 public:
  Tensor() = default;
  // Zero-filled. `padding` elements between rows hold a NaN (for floats), which nobody may read
  // into a result nor write; PaddingIsUntouched() tells.
  explicit Tensor(kernels::Shape shape, kernels::DType dtype = kernels::DType::kF32,
                  int64_t padding = 0);
  // Every byte 0xff, a NaN in each float: for what an op must write itself.
  static Tensor Unwritten(kernels::Shape shape, kernels::DType dtype = kernels::DType::kF32,
                          int64_t padding = 0);

  // Uniform in [low, high), a pure function of the seed, rounded to the dtype.
  static Tensor Random(kernels::Shape shape, kernels::DType dtype, uint64_t seed, double low = -1.0,
                       double high = 1.0, int64_t padding = 0);
  // Integers in [low, high], both included, in any dtype.
  static Tensor RandomIntegers(kernels::Shape shape, kernels::DType dtype, uint64_t seed, int low,
                               int high);
  static Tensor Of(std::initializer_list<int> values);  // [n] i32
  static Tensor Of(const std::vector<double>& values, kernels::DType dtype, kernels::Shape shape);

  operator kernels::TensorView() const { return view_; }       // NOLINT
  operator kernels::ConstTensorView() const { return view_; }  // NOLINT
  const kernels::TensorView& view() const { return view_; }
  const kernels::Shape& shape() const { return view_.shape(); }
  kernels::DType dtype() const { return view_.dtype(); }
  int64_t num_elements() const { return view_.num_elements(); }

  // Element i in row-major order, without the padding; integers too.
  double At(int64_t i) const;
  void SetAt(int64_t i, double value) const;
  // The same values in another dtype, contiguous.
  Tensor To(kernels::DType dtype) const;
  Tensor Clone() const;  // same strides
  bool PaddingIsUntouched() const;
  // Same shape, dtype and bits (padding aside); two NaN of the same bits are equal.
  friend bool BitEqual(const Tensor& a, const Tensor& b);

 private:
  int64_t Offset(int64_t i) const;
  std::shared_ptr<char> storage_;  // copies of a Tensor share it, as views do
  size_t storage_bytes_ = 0;
  kernels::TensorView view_;
};

bool BitEqual(const Tensor& a, const Tensor& b);

}  // namespace sluice::testing
