#include "kernels/ops/matmul.h"

#include "kernels/core/check.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/matmul_layout.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {
namespace {

void CheckOperand(const Stream& stream, const ConstTensorView& view, int rank) {
  CHECK(view.device() == stream.device());
  CHECK_EQ(view.shape().rank(), rank);
  CHECK(view.num_elements() == 0 || !view.is_null());
}

void CheckElementType(DType dtype) {
  CHECK(dtype == DType::kF32 || dtype == DType::kBF16) << "found " << NameOf(dtype).data();
}

// The result of products of `operand` elements.
void CheckResult(DType result, DType operand, bool accumulate) {
  CheckElementType(operand);
  CHECK(result == DType::kF32 || (result == operand && !accumulate))
      << "found " << NameOf(result).data();
}

void CheckPacked(const Stream& stream, const PackedMatrix& packed) {
  CheckElementType(packed.dtype);
  CHECK_GE(packed.num_matrices, 0);
  CHECK_GE(packed.k, 0);
  CHECK_GE(packed.n, 0);
  CHECK(packed.storage.device() == stream.device());
  CHECK(packed.storage.dtype() == DType::kU8);
  const size_t wanted = PackedBytes(packed.num_matrices, packed.k, packed.n, packed.dtype);
  CHECK_GE(packed.storage.bytes(), wanted);
  CHECK(wanted == 0 || !packed.storage.is_null());
}

void CheckOffsets(const Stream& stream, const ConstTensorView& offsets, int64_t num_experts) {
  CheckOperand(stream, offsets, 1);
  CHECK(offsets.dtype() == DType::kI32);
  CHECK_EQ(offsets.extent(0), num_experts + 1);
}

// Offsets are data: they can be looked at only when the stream gets there.
void CheckOffsetValues(const ConstTensorView& offsets, int64_t num_tokens) {
  const int32_t* p = offsets.data<int32_t>();
  const int64_t num_experts = offsets.extent(0) - 1;
  CHECK_GE(p[0], 0);
  for (int64_t e = 0; e < num_experts; ++e) CHECK_LE(p[e], p[e + 1]);
  CHECK_LE(p[num_experts], num_tokens);
}

void CheckAllRowsBelong(const ConstTensorView& offsets, int64_t num_tokens) {
  const int32_t* p = offsets.data<int32_t>();
  CHECK_EQ(p[0], 0);
  CHECK_EQ(p[offsets.extent(0) - 1], num_tokens);
}

}  // namespace

size_t PackedBytes(int64_t num_matrices, int64_t k, int64_t n, DType dtype) {
  return static_cast<size_t>(num_matrices * cpu::PackedWords(k, n, dtype)) * sizeof(uint32_t);
}

void PackMatrix(Stream& stream, const PackMatrixArgs& args) {
  const PackedMatrix& packed = args.packed;
  CheckPacked(stream, packed);
  const int rank = args.b.shape().rank();
  CHECK(rank == 2 || rank == 3) << "b is " << args.b.shape();
  CheckOperand(stream, args.b, rank);
  CheckElementType(args.b.dtype());
  CHECK(args.b.dtype() == packed.dtype || args.b.dtype() == DType::kF32)
      << "bf16 is not packed as f32";
  CHECK_EQ(packed.num_matrices, rank == 3 ? args.b.extent(0) : 1);
  CHECK_EQ(args.b.extent(rank - 2), args.transpose ? packed.n : packed.k);
  CHECK_EQ(args.b.extent(rank - 1), args.transpose ? packed.k : packed.n);
  RUN_OP(stream, PackMatrix, args);
}

void Matmul(Stream& stream, const MatmulArgs& args) {
  CheckOperand(stream, args.a, 2);
  CheckOperand(stream, args.b, 2);
  CheckOperand(stream, args.c, 2);
  CheckResult(args.c.dtype(), args.a.dtype(), args.accumulate);
  CHECK(args.b.dtype() == args.a.dtype()) << "b is " << NameOf(args.b.dtype()).data();
  const int64_t k = args.a.extent(args.transpose_a ? 0 : 1);
  CHECK_EQ(args.a.extent(args.transpose_a ? 1 : 0), args.c.extent(0));
  CHECK_EQ(args.b.extent(args.transpose_b ? 1 : 0), k);
  CHECK_EQ(args.b.extent(args.transpose_b ? 0 : 1), args.c.extent(1));
  RUN_OP(stream, Matmul, args);
}

void PackedMatmul(Stream& stream, const PackedMatmulArgs& args) {
  CheckOperand(stream, args.a, 2);
  CheckOperand(stream, args.c, 2);
  CheckPacked(stream, args.b);
  CheckResult(args.c.dtype(), args.a.dtype(), args.accumulate);
  CHECK(args.b.dtype == args.a.dtype()) << "b is " << NameOf(args.b.dtype).data();
  CHECK_EQ(args.b.num_matrices, 1);
  CHECK_EQ(args.a.extent(1), args.b.k);
  CHECK_EQ(args.c.extent(0), args.a.extent(0));
  CHECK_EQ(args.c.extent(1), args.b.n);
  RUN_OP(stream, PackedMatmul, args);
}

void GroupedMatmul(Stream& stream, const GroupedMatmulArgs& args) {
  CheckOperand(stream, args.x, 2);
  CheckOperand(stream, args.y, 2);
  CheckPacked(stream, args.w);
  CheckOffsets(stream, args.offsets, args.w.num_matrices);
  CheckResult(args.y.dtype(), args.x.dtype(), false);
  CHECK(args.w.dtype == args.x.dtype()) << "w is " << NameOf(args.w.dtype).data();
  CHECK_EQ(args.x.extent(1), args.w.k);
  CHECK_EQ(args.y.extent(0), args.x.extent(0));
  CHECK_EQ(args.y.extent(1), args.w.n);
  if constexpr (kWithCuda) {
    if (IsOnCuda(stream)) return cuda::GroupedMatmul(stream, args);
  }
  CpuStream::From(stream).Run([args](ThreadPool& pool) {
    CheckOffsetValues(args.offsets, args.x.extent(0));
    CheckAllRowsBelong(args.offsets, args.x.extent(0));
    cpu::GroupedMatmul(pool, args);
  });
}

void GroupedWeightGradient(Stream& stream, const GroupedWeightGradientArgs& args) {
  CheckOperand(stream, args.dy, 2);
  CheckOperand(stream, args.x, 2);
  CheckOperand(stream, args.dw, 3);
  CheckOffsets(stream, args.offsets, args.dw.extent(0));
  CheckElementType(args.x.dtype());
  CHECK(args.dy.dtype() == args.x.dtype()) << "dy is " << NameOf(args.dy.dtype()).data();
  CHECK(args.dw.dtype() == DType::kF32) << "dw is " << NameOf(args.dw.dtype()).data();
  CHECK_EQ(args.dy.extent(0), args.x.extent(0));
  CHECK_EQ(args.dy.extent(1), args.dw.extent(1));
  CHECK_EQ(args.x.extent(1), args.dw.extent(2));
  if constexpr (kWithCuda) {
    if (IsOnCuda(stream)) return cuda::GroupedWeightGradient(stream, args);
  }
  CpuStream::From(stream).Run([args](ThreadPool& pool) {
    CheckOffsetValues(args.offsets, args.x.extent(0));
    cpu::GroupedWeightGradient(pool, args);
  });
}

}  // namespace sluice::kernels
