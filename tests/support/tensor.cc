#include "tests/support/tensor.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "kernels/core/check.h"
#include "kernels/core/philox.h"

namespace sluice::testing {

using kernels::BFloat16;
using kernels::DType;
using kernels::Shape;
using kernels::TensorView;

namespace {

bool IsFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF64 ||
         dtype == DType::kE4M3;
}

double Load(const TensorView& view, int64_t offset) {
  switch (view.dtype()) {
    case DType::kF32:
      return view.data<float>()[offset];
    case DType::kBF16:
      return kernels::ToFloat(view.data<BFloat16>()[offset]);
    case DType::kF64:
      return view.data<double>()[offset];
    case DType::kI32:
      return view.data<int32_t>()[offset];
    case DType::kI64:
      return static_cast<double>(view.data<int64_t>()[offset]);
    case DType::kU8:
      return view.data<uint8_t>()[offset];
    case DType::kE4M3:
      return kernels::ToFloat(view.data<kernels::E4M3>()[offset]);
  }
  return 0;
}

void Store(const TensorView& view, int64_t offset, double value) {
  switch (view.dtype()) {
    case DType::kF32:
      view.mutable_data<float>()[offset] = static_cast<float>(value);
      break;
    case DType::kBF16:
      view.mutable_data<BFloat16>()[offset] = kernels::ToBFloat16(static_cast<float>(value));
      break;
    case DType::kF64:
      view.mutable_data<double>()[offset] = value;
      break;
    case DType::kI32:
      view.mutable_data<int32_t>()[offset] = static_cast<int32_t>(value);
      break;
    case DType::kI64:
      view.mutable_data<int64_t>()[offset] = static_cast<int64_t>(value);
      break;
    case DType::kU8:
      view.mutable_data<uint8_t>()[offset] = static_cast<uint8_t>(value);
      break;
    case DType::kE4M3:
      view.mutable_data<kernels::E4M3>()[offset] = kernels::ToE4M3(static_cast<float>(value));
      break;
  }
}

TensorMemory& CurrentMemory() {
  static auto* const memory = new TensorMemory;
  return *memory;
}

std::shared_ptr<char> AllocateZeroed(size_t bytes) {
  const TensorMemory& memory = CurrentMemory();
  if (memory.allocate == nullptr) {
    // Aligned for every element type.
    return {static_cast<char*>(std::calloc(bytes, 1)), std::free};
  }
  return {static_cast<char*>(memory.allocate(bytes)), memory.free};
}

}  // namespace

void SetTensorMemory(const TensorMemory& memory) { CurrentMemory() = memory; }

Tensor::Tensor(Shape shape, DType dtype, int64_t padding) {
  const int64_t width = shape.elements_per_row(), stride = width + padding;
  const int64_t rows = shape.rank() == 0 ? 1 : shape[0];
  const size_t bytes = static_cast<size_t>(rows * stride) * SizeOf(dtype);
  // An empty tensor has an address too.
  storage_bytes_ = bytes == 0 ? 1 : bytes;
  storage_ = AllocateZeroed(storage_bytes_);
  view_ = TensorView(storage_.get(), dtype, shape, CurrentMemory().device, stride);
  if (!IsFloat(dtype)) return;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = width; c < stride; ++c) {
      Store(view_, r * stride + c, std::numeric_limits<double>::quiet_NaN());
    }
  }
}

Tensor Tensor::Unwritten(Shape shape, DType dtype, int64_t padding) {
  Tensor tensor(shape, dtype, padding);
  std::memset(tensor.storage_.get(), 0xff, tensor.storage_bytes_);
  return tensor;
}

Tensor Tensor::Random(Shape shape, DType dtype, uint64_t seed, double low, double high,
                      int64_t padding) {
  Tensor tensor(shape, dtype, padding);
  const uint64_t key = PhiloxKey(seed, RandomPurpose::kTest);
  for (int64_t i = 0; i < tensor.num_elements(); ++i) {
    const auto words = Philox(key, static_cast<uint64_t>(i));
    const double unit = static_cast<double>(UniformFromBits(words[0]));
    tensor.SetAt(i, low + (high - low) * unit);
  }
  return tensor;
}

Tensor Tensor::RandomIntegers(Shape shape, DType dtype, uint64_t seed, int low, int high) {
  Tensor tensor(shape, dtype);
  const uint64_t key = PhiloxKey(seed, RandomPurpose::kTest);
  for (int64_t i = 0; i < tensor.num_elements(); ++i) {
    const uint64_t word = Philox(key, static_cast<uint64_t>(i))[0];
    tensor.SetAt(i, low + static_cast<int>((word * static_cast<uint64_t>(high - low + 1)) >> 32));
  }
  return tensor;
}

Tensor Tensor::Of(std::initializer_list<int> values) {
  Tensor tensor({static_cast<int64_t>(values.size())}, DType::kI32);
  int64_t i = 0;
  for (int value : values) tensor.SetAt(i++, value);
  return tensor;
}

Tensor Tensor::Of(const std::vector<double>& values, DType dtype, Shape shape) {
  Tensor tensor(shape, dtype);
  CHECK_EQ(tensor.num_elements(), static_cast<int64_t>(values.size()));
  for (size_t i = 0; i < values.size(); ++i) tensor.SetAt(static_cast<int64_t>(i), values[i]);
  return tensor;
}

int64_t Tensor::Offset(int64_t i) const {
  const int64_t width = view_.shape().elements_per_row();
  return i / width * view_.row_stride() + i % width;
}

double Tensor::At(int64_t i) const { return Load(view_, Offset(i)); }

void Tensor::SetAt(int64_t i, double value) const { Store(view_, Offset(i), value); }

Tensor Tensor::To(DType dtype) const {
  Tensor tensor(shape(), dtype);
  for (int64_t i = 0; i < num_elements(); ++i) tensor.SetAt(i, At(i));
  return tensor;
}

Tensor Tensor::Clone() const {
  Tensor tensor(shape(), dtype(), view_.row_stride() - shape().elements_per_row());
  std::memcpy(tensor.storage_.get(), storage_.get(), storage_bytes_);
  return tensor;
}

bool Tensor::PaddingIsUntouched() const {
  if (!IsFloat(dtype())) return true;
  const int64_t width = shape().elements_per_row(), stride = view_.row_stride();
  for (int64_t r = 0; stride > width && r < shape()[0]; ++r) {
    for (int64_t c = width; c < stride; ++c) {
      if (!std::isnan(Load(view_, r * stride + c))) return false;
    }
  }
  return true;
}

bool BitEqual(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return false;
  const size_t size = SizeOf(a.dtype());
  const auto* from_a = static_cast<const char*>(a.view().raw_data());
  const auto* from_b = static_cast<const char*>(b.view().raw_data());
  for (int64_t i = 0; i < a.num_elements(); ++i) {
    const size_t offset_a = static_cast<size_t>(a.Offset(i)) * size;
    const size_t offset_b = static_cast<size_t>(b.Offset(i)) * size;
    if (std::memcmp(from_a + offset_a, from_b + offset_b, size) != 0) return false;
  }
  return true;
}

}  // namespace sluice::testing
