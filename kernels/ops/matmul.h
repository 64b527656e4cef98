// Dense and grouped matrix products.   M rows, K contracted, N columns, T tokens, E local experts
//
// Batch invariance: an element of the result depends only on its row of `a`, its column of `b` and
// K, never on how many other rows or columns there are, on the number of threads, or on strides.
// Products are summed along K in one fixed order in FP32 (BF16 operands: pairs of products per
// step, as the CPU's BF16 dot instruction does).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

// A right-hand operand in the layout that the backend's kernel reads: E matrices of [K, N]. Opaque;
// made by PackMatrix, reused until its weights change.
struct PackedMatrix {
  int64_t num_matrices = 0, k = 0, n = 0;
  DType dtype = DType::kF32;  // f32 | bf16
  TensorView storage;         // [PackedBytes(...)] u8
};

// Bytes that PackedMatrix::storage needs.
size_t PackedBytes(int64_t num_matrices, int64_t k, int64_t n, DType dtype);

// Packs b for use as right-hand operand. A linear layer's weight is stored [out, in]: pack it with
// transpose = true for y = x W^T (K = in, N = out), with transpose = false for dx = dy W (K = out,
// N = in).
struct PackMatrixArgs {
  ConstTensorView b;  // [E, K, N], or [E, N, K] with transpose; rank 2 means E = 1. f32 | bf16
  bool transpose = false;
  PackedMatrix packed;  // shape and dtype of b; its storage is written. f32 b may be packed as bf16
                        // (rounded to nearest even)
};
void PackMatrix(Stream& stream, const PackMatrixArgs& args);

// c = a b, or c += a b with accumulate (then c is f32).
struct MatmulArgs {
  ConstTensorView a;  // [M, K], or [K, M] with transpose_a; f32 | bf16; rows may be strided
  ConstTensorView b;  // [K, N], or [N, K] with transpose_b; dtype of a; rows may be strided
  TensorView c;       // [M, N] f32, or the dtype of a; rows may be strided
  bool transpose_a = false, transpose_b = false, accumulate = false;
};
void Matmul(Stream& stream, const MatmulArgs& args);

// The same with a packed right-hand operand of one matrix.
struct PackedMatmulArgs {
  ConstTensorView a;        // [M, K] dtype of b; rows may be strided
  PackedMatrix b;           // one matrix [K, N]
  TensorView c;             // [M, N] f32, or the dtype of a; rows may be strided
  bool accumulate = false;  // c is f32
};
void PackedMatmul(Stream& stream, const PackedMatmulArgs& args);

// y[t] = x[t] W[e] for offsets[e] <= t < offsets[e + 1]. An expert with no token costs nothing.
struct GroupedMatmulArgs {
  ConstTensorView x;        // [T, K] f32 | bf16
  PackedMatrix w;           // E matrices [K, N]; dtype of x
  ConstTensorView offsets;  // [E + 1] i32, ascending, offsets[0] == 0, offsets[E] == T
  TensorView y;             // [T, N] f32, or the dtype of x
};
void GroupedMatmul(Stream& stream, const GroupedMatmulArgs& args);

// dw[e] += dy[rows of e]^T x[rows of e], summed over rows in ascending order. An expert with no
// token is left untouched.
struct GroupedWeightGradientArgs {
  ConstTensorView dy;       // [T, N] f32 | bf16
  ConstTensorView x;        // [T, K] dtype of dy
  ConstTensorView offsets;  // [E + 1] i32, ascending in [0, T]: rows outside belong to no expert
  TensorView dw;            // [E, N, K] f32
};
void GroupedWeightGradient(Stream& stream, const GroupedWeightGradientArgs& args);

}  // namespace sluice::kernels
