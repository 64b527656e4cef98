#include "kernels/ops/fp8_matmul.h"

#include "kernels/core/cpu_stream.h"
#include "kernels/cpu/fp8_matmul.h"
#include "kernels/ops/check_arguments.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {
namespace {

int64_t CheckExpertOffsets(const Stream& stream, const ConstTensorView& offsets, int64_t experts) {
  if (offsets.is_null()) {
    CHECK_EQ(experts, 1);
    return 1;
  }
  CheckTensor(stream, "offsets", offsets, {experts + 1}, DType::kI32);
  return experts;
}

// Offsets are data: they can be looked at only when the stream gets there.
void CheckOffsetsCover(const ConstTensorView& offsets, int64_t rows) {
  if (offsets.is_null()) return;
  const int32_t* p = offsets.data<int32_t>();
  const int64_t experts = offsets.extent(0) - 1;
  CHECK_EQ(p[0], 0);
  for (int64_t e = 0; e < experts; ++e) CHECK_LE(p[e], p[e + 1]);
  CHECK_EQ(p[experts], rows);
}

}  // namespace

void Fp8Matmul(Stream& stream, const Fp8MatmulArgs& args) {
  const QuantizedWeight& w = args.w;
  CHECK_EQ(w.codes.shape().rank(), 3);
  const int64_t experts = w.codes.extent(0), out = w.codes.extent(1), in = w.codes.extent(2);
  const int64_t row_tiles = w.row_tiles.is_null() ? NumTiles(out) : w.row_tiles.extent(0) - 1;
  if (w.equal_parts > 0) {
    CHECK_EQ(out % w.equal_parts, 0);
    CHECK_EQ(row_tiles, w.equal_parts * NumTiles(out / w.equal_parts));
  }
  const bool forward = args.direction == Fp8Direction::kForward;
  // The CPU reads rows of b, the GPU its columns.
  if (forward != IsOnCuda(stream)) {
    CheckTensor(stream, "w.transposed_codes", w.transposed_codes, {experts, in, out}, DType::kE4M3);
    CheckTensor(stream, "w.transposed_scales", w.transposed_scales,
                {experts, NumTiles(in), row_tiles}, DType::kF32);
  } else {
    CheckTensor(stream, "w.codes", w.codes, w.codes.shape(), DType::kE4M3);
    CheckTensor(stream, "w.scales", w.scales, {experts, row_tiles, NumTiles(in)}, DType::kF32);
  }
  const int64_t rows = args.a.codes.extent(0);
  CheckTensor(stream, "a.codes", args.a.codes, {rows, forward ? in : out}, DType::kE4M3);
  CheckTensor(stream, "a.scales", args.a.scales, {rows, forward ? NumTiles(in) : row_tiles},
              DType::kF32);
  CheckTensor(stream, "c", args.c, {rows, forward ? out : in}, CheckFloat("c", args.c));
  CheckExpertOffsets(stream, args.offsets, experts);
  if constexpr (kWithCuda) {
    if (IsOnCuda(stream)) return cuda::Fp8Matmul(stream, args);
  }
  CpuStream::From(stream).Run([args](ThreadPool& pool) {
    CheckOffsetsCover(args.offsets, args.a.codes.extent(0));
    cpu::Fp8Matmul(pool, args);
  });
}

void Fp8WeightGradient(Stream& stream, const Fp8WeightGradientArgs& args) {
  const auto check_codes = [&](const char* name, const QuantizedColumns& columns, int64_t rows,
                               int64_t width) {
    CHECK(!columns.transposed || IsOnCuda(stream)) << "the CPU reads columns as rows";
    const Shape shape =
        columns.transposed ? Shape{width, columns.codes.extent(1)} : Shape{rows, width};
    CheckTensor(stream, name, columns.codes, shape, DType::kE4M3);
  };
  CHECK_EQ(args.dw.shape().rank(), 3);
  const int64_t experts = args.dw.extent(0), out = args.dw.extent(1), in = args.dw.extent(2);
  CheckExpertOffsets(stream, args.offsets, experts);
  CHECK(args.dy.transposed == args.x.transposed);
  const int64_t rows = args.dy.codes.extent(args.dy.transposed ? 1 : 0);
  // With transposed codes the number of rows is not known here, only that of their tiles.
  const int64_t tiles =
      args.dy.transposed ? args.dy.scales.extent(0) : NumColumnTiles(rows, experts);
  if (args.dy.transposed) {
    CHECK_EQ(args.x.codes.extent(1), rows);
    CHECK_GE(tiles * kQuantTile, rows);
  }
  check_codes("dy.codes", args.dy, rows, out);
  CheckTensor(stream, "dy.scales", args.dy.scales, {tiles, out}, DType::kF32);
  check_codes("x.codes", args.x, rows, in);
  CheckTensor(stream, "x.scales", args.x.scales, {tiles, in}, DType::kF32);
  CheckTensor(stream, "dw", args.dw, args.dw.shape(), DType::kF32);
  if constexpr (kWithCuda) {
    if (IsOnCuda(stream)) return cuda::Fp8WeightGradient(stream, args);
  }
  CpuStream::From(stream).Run([args](ThreadPool& pool) {
    CheckOffsetsCover(args.offsets, args.dy.codes.extent(0));
    cpu::Fp8WeightGradient(pool, args);
  });
}

bool ReadsTransposedColumns(const Stream& stream) { return IsOnCuda(stream); }

}  // namespace sluice::kernels
