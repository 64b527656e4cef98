#include "kernels/ops/dequantized_matmul.h"

#include "kernels/core/cpu_stream.h"
#include "kernels/cpu/dequantized_matmul.h"
#include "kernels/ops/check_arguments.h"

namespace sluice::kernels {
namespace {

void CheckWeightOf(const Stream& stream, const QuantizedWeight& w) {
  CHECK_EQ(w.codes.shape().rank(), 3);
  const int64_t out = w.codes.extent(1), in = w.codes.extent(2);
  const int64_t row_tiles = w.row_tiles.is_null() ? NumTiles(out) : w.row_tiles.extent(0) - 1;
  CheckTensor(stream, "w.codes", w.codes, w.codes.shape(), DType::kE4M3);
  CheckTensor(stream, "w.scales", w.scales, {w.codes.extent(0), row_tiles, NumTiles(in)},
              DType::kF32);
  if (!w.row_tiles.is_null()) {
    CheckTensor(stream, "w.row_tiles", w.row_tiles, {row_tiles + 1}, DType::kI32);
  }
}

}  // namespace

void DequantizedMatmul(Stream& stream, const DequantizedMatmulArgs& args) {
  CheckWeightOf(stream, args.w);
  const ConstTensorView& codes = args.w.codes;
  const bool forward = args.direction == Fp8Direction::kForward;
  const int64_t k = codes.extent(forward ? 2 : 1), n = codes.extent(forward ? 1 : 2);
  const DType dtype = CheckFloat("a", args.a);
  CheckTensor(stream, "a", args.a, {args.c.extent(0), k}, dtype);
  CheckTensor(stream, "c", args.c, {args.a.extent(0), n}, CheckFloat("c", args.c));
  CHECK(args.c.dtype() == DType::kF32 || args.c.dtype() == dtype) << NameOf(dtype).data();
  if (args.offsets.is_null()) {
    CHECK_EQ(codes.extent(0), 1);
  } else {
    CheckTensor(stream, "offsets", args.offsets, {codes.extent(0) + 1}, DType::kI32);
  }
  CpuStream::From(stream).Run([args](ThreadPool& pool) { cpu::DequantizedMatmul(pool, args); });
}

}  // namespace sluice::kernels
