// Element access for the reference ops: every floating dtype is read as double and written with one
// rounding. Unlike the ops themselves, the reference also takes f64 tensors wherever a header says
// f32 | bf16, so that finite differences can be taken in double.
#pragma once

#include <cstdint>

#include "kernels/core/check.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels::reference {

// Element `column` of row `row`: rows are row_stride() apart, the rest of a row is contiguous.
inline double Get(const ConstTensorView& view, int64_t row, int64_t column = 0) {
  const int64_t i = row * view.row_stride() + column;
  switch (view.dtype()) {
    case DType::kF32:
      return static_cast<double>(view.data<float>()[i]);
    case DType::kBF16:
      return static_cast<double>(ToFloat(view.data<BFloat16>()[i]));
    case DType::kF64:
      return view.data<double>()[i];
    default:
      CHECK(false) << "no floating dtype: " << NameOf(view.dtype()).data();
      return 0.0;
  }
}

inline void Set(const TensorView& view, double value, int64_t row, int64_t column = 0) {
  const int64_t i = row * view.row_stride() + column;
  switch (view.dtype()) {
    case DType::kF32:
      view.mutable_data<float>()[i] = static_cast<float>(value);
      break;
    case DType::kBF16:
      view.mutable_data<BFloat16>()[i] = ToBFloat16(static_cast<float>(value));
      break;
    case DType::kF64:
      view.mutable_data<double>()[i] = value;
      break;
    default:
      CHECK(false) << "no floating dtype: " << NameOf(view.dtype()).data();
  }
}

inline int64_t Index(const ConstTensorView& view, int64_t row, int64_t column = 0) {
  return view.data<int32_t>()[row * view.row_stride() + column];
}

}  // namespace sluice::kernels::reference
