// Row copies and index checks shared by the ops that move rows.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/core/check.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels::cpu {

// CHECKs that every index lies in [0, limit).
inline void CheckIndices(const ConstTensorView& index, int64_t limit) {
  const int32_t* data = index.data<int32_t>();
  const int64_t width = index.shape().elements_per_row();
  for (int64_t r = 0; r < index.extent(0); ++r) {
    for (int64_t c = 0; c < width; ++c) {
      const int64_t i = data[r * index.row_stride() + c];
      CHECK(i >= 0 && i < limit) << "index " << i << " at " << r << ", wanted below " << limit;
    }
  }
}

// to[to_row] = from[from_row], `width` elements of the same dtype.
inline void CopyRow(const ConstTensorView& from, int64_t from_row, const TensorView& to,
                    int64_t to_row, int64_t width) {
  const auto size = static_cast<int64_t>(SizeOf(from.dtype()));
  std::memcpy(static_cast<char*>(to.raw_mutable_data()) + to_row * to.row_stride() * size,
              static_cast<const char*>(from.raw_data()) + from_row * from.row_stride() * size,
              static_cast<size_t>(width * size));
}

}  // namespace sluice::kernels::cpu
