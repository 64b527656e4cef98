// Views of tensors: pointer, element type, shape, device. They own nothing and are passed by value.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "kernels/core/check.h"
#include "kernels/core/dtype.h"

namespace sluice::kernels {

enum class DeviceType : uint8_t { kCpu, kCuda };

struct DeviceId {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
  friend bool operator==(const DeviceId&, const DeviceId&) = default;
};

// Up to four extents, stored inline. The empty shape is a scalar (one element).
class Shape {
 public:
  static constexpr int kMaxRank = 4;
  Shape() = default;
  Shape(std::initializer_list<int64_t> extents);

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return extents_[i]; }
  int64_t num_elements() const;
  int64_t elements_per_row() const;  // product of all extents but the first; 1 for rank 0 or 1
  std::string ToString() const;      // "[4, 128]"
  friend bool operator==(const Shape& a, const Shape& b);
  friend bool operator!=(const Shape& a, const Shape& b) { return !(a == b); }

 private:
  std::array<int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape);

// Elements are row-major. Rows (slices along extent 0) may be further apart than they are long:
// row_stride() elements from one to the next; inside a row everything is contiguous.
class ConstTensorView {
 public:
  ConstTensorView() = default;
  ConstTensorView(const void* data, DType dtype, Shape shape, DeviceId device = {},
                  int64_t row_stride = -1);

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t extent(int i) const { return shape_[i]; }
  DeviceId device() const { return device_; }
  int64_t row_stride() const { return row_stride_; }
  bool is_contiguous() const {
    return shape_.rank() == 0 || row_stride_ == shape_.elements_per_row();
  }
  int64_t num_elements() const { return shape_.num_elements(); }
  size_t bytes() const {
    return static_cast<size_t>(num_elements()) * SizeOf(dtype_);
  }  // contiguous only
  bool is_null() const { return data_ == nullptr; }
  const void* raw_data() const { return data_; }

  template <typename T>
  const T* data() const {
    CHECK(DTypeOf<T>::kValue == dtype_) << "view holds " << NameOf(dtype_).data();
    return static_cast<const T*>(data_);
  }

  // Rows [begin, begin + count) along extent 0.
  ConstTensorView Rows(int64_t begin, int64_t count) const;
  // Columns [begin, begin + count) of a rank-2 view, as a rank-2 view with the same row stride.
  ConstTensorView Columns(int64_t begin, int64_t count) const;
  // The same elements in another shape; contiguous only. A strided view may be reshaped if extent 0
  // stays.
  ConstTensorView Reshape(Shape shape) const;

 protected:
  void* MutableRaw() const { return const_cast<void*>(data_); }
  const void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  Shape shape_;
  DeviceId device_;
  int64_t row_stride_ = 0;
};

// A view that may be written through.
class TensorView : public ConstTensorView {
 public:
  TensorView() = default;
  TensorView(void* data, DType dtype, Shape shape, DeviceId device = {}, int64_t row_stride = -1)
      : ConstTensorView(data, dtype, shape, device, row_stride) {}

  void* raw_mutable_data() const { return MutableRaw(); }
  template <typename T>
  T* mutable_data() const {
    CHECK(DTypeOf<T>::kValue == dtype_) << "view holds " << NameOf(dtype_).data();
    return static_cast<T*>(MutableRaw());
  }

  TensorView Rows(int64_t begin, int64_t count) const {
    return Mutable(ConstTensorView::Rows(begin, count));
  }
  TensorView Columns(int64_t begin, int64_t count) const {
    return Mutable(ConstTensorView::Columns(begin, count));
  }
  TensorView Reshape(Shape shape) const { return Mutable(ConstTensorView::Reshape(shape)); }

 private:
  static TensorView Mutable(const ConstTensorView& view) {
    return TensorView(const_cast<void*>(view.raw_data()), view.dtype(), view.shape(), view.device(),
                      view.row_stride());
  }
};

}  // namespace sluice::kernels
