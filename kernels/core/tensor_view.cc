#include "kernels/core/tensor_view.h"

#include <ostream>
#include <sstream>

namespace sluice::kernels {

Shape::Shape(std::initializer_list<int64_t> extents) {
  CHECK_LE(extents.size(), static_cast<size_t>(kMaxRank));
  for (int64_t extent : extents) {
    CHECK_GE(extent, 0);
    extents_[rank_++] = extent;
  }
}

int64_t Shape::num_elements() const {
  int64_t product = 1;
  for (int i = 0; i < rank_; ++i) product *= extents_[i];
  return product;
}

int64_t Shape::elements_per_row() const {
  int64_t product = 1;
  for (int i = 1; i < rank_; ++i) product *= extents_[i];
  return product;
}

std::string Shape::ToString() const {
  std::ostringstream out;
  out << *this;
  return out.str();
}

bool operator==(const Shape& a, const Shape& b) {
  if (a.rank_ != b.rank_) return false;
  for (int i = 0; i < a.rank_; ++i) {
    if (a.extents_[i] != b.extents_[i]) return false;
  }
  return true;
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << "[";
  for (int i = 0; i < shape.rank(); ++i) out << (i > 0 ? ", " : "") << shape[i];
  return out << "]";
}

ConstTensorView::ConstTensorView(const void* data, DType dtype, Shape shape, DeviceId device,
                                 int64_t row_stride)
    : data_(data),
      dtype_(dtype),
      shape_(shape),
      device_(device),
      row_stride_(row_stride < 0 ? shape.elements_per_row() : row_stride) {
  CHECK_GE(row_stride_, shape_.elements_per_row());
}

ConstTensorView ConstTensorView::Rows(int64_t begin, int64_t count) const {
  CHECK_GE(shape_.rank(), 1);
  CHECK(begin >= 0 && count >= 0 && begin + count <= shape_[0])
      << "rows " << begin << " + " << count << " of " << shape_;
  Shape shape;
  switch (shape_.rank()) {
    case 1:
      shape = {count};
      break;
    case 2:
      shape = {count, shape_[1]};
      break;
    case 3:
      shape = {count, shape_[1], shape_[2]};
      break;
    default:
      shape = {count, shape_[1], shape_[2], shape_[3]};
      break;
  }
  const size_t offset_bytes = static_cast<size_t>(begin * row_stride_) * SizeOf(dtype_);
  return ConstTensorView(static_cast<const char*>(data_) + offset_bytes, dtype_, shape, device_,
                         row_stride_);
}

ConstTensorView ConstTensorView::Columns(int64_t begin, int64_t count) const {
  CHECK_EQ(shape_.rank(), 2);
  CHECK(begin >= 0 && count >= 0 && begin + count <= shape_[1])
      << "columns " << begin << " + " << count << " of " << shape_;
  const size_t offset_bytes = static_cast<size_t>(begin) * SizeOf(dtype_);
  return ConstTensorView(static_cast<const char*>(data_) + offset_bytes, dtype_, {shape_[0], count},
                         device_, row_stride_);
}

ConstTensorView ConstTensorView::Reshape(Shape shape) const {
  CHECK_EQ(shape.num_elements(), num_elements()) << shape_ << " to " << shape;
  if (is_contiguous()) return ConstTensorView(data_, dtype_, shape, device_);
  CHECK(shape.rank() >= 1 && shape[0] == shape_[0]) << "strided " << shape_ << " to " << shape;
  return ConstTensorView(data_, dtype_, shape, device_, row_stride_);
}

}  // namespace sluice::kernels
