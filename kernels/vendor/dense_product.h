// What cuBLASLt is asked for, and what it refuses: no library is needed to know.
// M rows, K contracted, N columns
#pragma once

#include <compare>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/dtype.h"
#include "kernels/cuda/hopper_matmul_config.h"

namespace sluice::kernels::vendor {

// c = a b or c += a b. Strides in elements.
struct DenseProduct {
  int64_t m = 0, n = 0, k = 0;
  DType operands = DType::kBF16;  // bf16 | e4m3
  DType result = DType::kF32;     // f32 | bf16
  // a is [M, K], or [K, M] if transposed; b is [N, K] if transposed, or [K, N]; c is [M, N].
  bool transpose_a = false, transpose_b = true, accumulate = false;
  int64_t a_row = 0, b_row = 0, c_row = 0;
  friend auto operator<=>(const DenseProduct&, const DenseProduct&) = default;
};

// Why cuBLASLt cannot do it, as a sentence with what was found and what is wanted; OK if it can, as
// far as shapes and strides say.
absl::Status CheckDenseProduct(const DenseProduct& product);

// Of a row or column: how many stretches of 128 have a scale of their own.
int64_t NumScaleTiles(int64_t extent);
// Scales of b (DensePointers) from one row of blocks to the next.
int64_t BlockScaleRow(int64_t k);

// Elements from row to row of a, b and c.
struct MatrixRows {
  int64_t a = 0, b = 0, c = 0;
};
// A product of ours as the library's. UNIMPLEMENTED: groups, two operands with scales by columns,
// or parts of K that are cut elsewhere than every 128; what CheckDenseProduct says.
absl::StatusOr<DenseProduct> DenseProductOf(const cuda::HopperMatmulShape& shape, DType result,
                                            bool accumulate, const MatrixRows& rows);

}  // namespace sluice::kernels::vendor
