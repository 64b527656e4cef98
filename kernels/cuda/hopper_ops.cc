#include "kernels/cuda/hopper_ops.h"

#include "kernels/core/check.h"
#include "kernels/cuda/cuda_stream.h"
#include "kernels/cuda/hopper_matmul.h"
#include "kernels/cuda/libraries.h"

namespace sluice::kernels::cuda {
namespace {

int64_t BytesOf(const HopperMatmulShape& shape) {
  const bool is_fp8 =
      shape.operands == MatmulOperands::kFp8Blocks || shape.operands == MatmulOperands::kFp8Columns;
  return is_fp8 ? 1 : 2;
}

// What the tensor maps of `args` will say of a matrix.
MatrixPlace PlaceOf(const HopperMatmulShape& shape, const void* data, int64_t stride) {
  return {.address = reinterpret_cast<uint64_t>(data), .row_bytes = stride * BytesOf(shape)};
}

bool Run(Stream& stream, const HopperMatmulArgs& args) {
  CudaStream& cuda = CudaStream::From(stream);
  const HopperMatmulShape& shape = args.shape;
  if (DenseLibrary* library = cuda.options().dense; library != nullptr && library->Takes(args)) {
    cuda.Note(library->Multiply(args, cuda));
    return true;
  }
  if (cuda.options().only_mma_sync ||
      !CheckHopperMatmul(shape, PlaceOf(shape, args.a, args.a_stride),
                         PlaceOf(shape, args.b, args.b_stride))
           .ok()) {
    return false;
  }
  const auto config = ChooseHopperMatmul(shape, cuda.num_multiprocessors());
  CHECK(config.ok()) << config.status().message();
  cuda.Note(HopperMatmul(cuda.handle(), args, *config));
  return true;
}

MatmulOutput OutputOf(const TensorView& c, bool accumulate) {
  if (accumulate) return MatmulOutput::kAddToF32;
  return c.dtype() == DType::kBF16 ? MatmulOutput::kBF16 : MatmulOutput::kF32;
}

// The groups of rows or of K; null: one with everything.
MatmulGrouping GroupingOf(const ConstTensorView& offsets, MatmulGrouping grouping) {
  return offsets.is_null() ? MatmulGrouping::kDense : grouping;
}
const int32_t* OffsetsOf(const ConstTensorView& offsets) {
  return offsets.is_null() ? nullptr : offsets.data<int32_t>();
}

}  // namespace

bool MatmulByWgmma(Stream& stream, const MatmulArgs& args) {
  if (args.a.dtype() != DType::kBF16 || args.transpose_a == args.transpose_b) return false;
  return Run(stream, {.shape = {.operands = args.transpose_a ? MatmulOperands::kBF16Columns
                                                             : MatmulOperands::kBF16,
                                .grouping = MatmulGrouping::kDense,
                                .m = args.c.extent(0),
                                .n = args.c.extent(1),
                                .k = args.a.extent(args.transpose_a ? 0 : 1),
                                .num_groups = 1},
                      .output = OutputOf(args.c, args.accumulate),
                      .a = args.a.raw_data(),
                      .b = args.b.raw_data(),
                      .a_stride = args.a.row_stride(),
                      .b_stride = args.b.row_stride(),
                      .c = args.c.raw_mutable_data(),
                      .c_stride = args.c.row_stride()});
}

bool PackedMatmulByWgmma(Stream& stream, const PackedMatmulArgs& args) {
  if (args.a.dtype() != DType::kBF16) return false;
  return Run(stream, {.shape = {.operands = MatmulOperands::kBF16,
                                .grouping = MatmulGrouping::kDense,
                                .m = args.c.extent(0),
                                .n = args.b.n,
                                .k = args.b.k,
                                .num_groups = 1},
                      .output = OutputOf(args.c, args.accumulate),
                      .a = args.a.raw_data(),
                      .b = args.b.storage.raw_data(),
                      .a_stride = args.a.row_stride(),
                      .b_stride = args.b.k,
                      .c = args.c.raw_mutable_data(),
                      .c_stride = args.c.row_stride()});
}

bool GroupedMatmulByWgmma(Stream& stream, const GroupedMatmulArgs& args) {
  if (args.x.dtype() != DType::kBF16) return false;
  return Run(stream, {.shape = {.operands = MatmulOperands::kBF16,
                                .grouping = MatmulGrouping::kRows,
                                .m = args.y.extent(0),
                                .n = args.w.n,
                                .k = args.w.k,
                                .num_groups = args.w.num_matrices},
                      .output = OutputOf(args.y, false),
                      .a = args.x.raw_data(),
                      .b = args.w.storage.raw_data(),
                      .a_stride = args.x.row_stride(),
                      .b_stride = args.w.k,
                      .offsets = OffsetsOf(args.offsets),
                      .c = args.y.raw_mutable_data(),
                      .c_stride = args.y.row_stride()});
}

bool GroupedWeightGradientByWgmma(Stream& stream, const GroupedWeightGradientArgs& args) {
  if (args.x.dtype() != DType::kBF16) return false;
  return Run(stream, {.shape = {.operands = MatmulOperands::kBF16Columns,
                                .grouping = MatmulGrouping::kContracted,
                                .m = args.dw.extent(1),
                                .n = args.dw.extent(2),
                                .k = args.x.extent(0),
                                .num_groups = args.dw.extent(0)},
                      .output = MatmulOutput::kAddToF32,
                      .a = args.dy.raw_data(),
                      .b = args.x.raw_data(),
                      .a_stride = args.dy.row_stride(),
                      .b_stride = args.x.row_stride(),
                      .offsets = OffsetsOf(args.offsets),
                      .c = args.dw.raw_mutable_data(),
                      .c_stride = args.dw.extent(2)});
}

// A weight whose rows are cut into blocks of other heights than 128 is mma.sync's, unless it is
// equal parts, each cut every 128. Forward each part is a product of its own, beside the others in
// c; backward K has parts.
bool Fp8MatmulByWgmma(Stream& stream, const Fp8MatmulArgs& args) {
  const QuantizedWeight& w = args.w;
  if (!w.row_tiles.is_null() && w.equal_parts == 0) return false;
  const int64_t parts = w.row_tiles.is_null() ? 1 : w.equal_parts;
  const bool is_forward = args.direction == Fp8Direction::kForward;
  const ConstTensorView codes = is_forward ? w.codes : w.transposed_codes;     // [E, N, K]
  const ConstTensorView scales = is_forward ? w.scales : w.transposed_scales;  // [E, N/128, K/128]
  const int64_t n = is_forward ? codes.extent(1) / parts : codes.extent(1), k = codes.extent(2);
  const int64_t group_scales = scales.extent(1) * scales.extent(2);
  const HopperMatmulArgs product = {
      .shape = {.operands = MatmulOperands::kFp8Blocks,
                .grouping = GroupingOf(args.offsets, MatmulGrouping::kRows),
                .m = args.c.extent(0),
                .n = n,
                .k = k,
                .num_groups = codes.extent(0),
                .k_parts = is_forward ? 1 : parts},
      .output = OutputOf(args.c, false),
      .a = args.a.codes.raw_data(),
      .b = codes.raw_data(),
      .a_stride = args.a.codes.row_stride(),
      .b_stride = k,
      .b_group_rows = codes.extent(1),
      .a_scales = args.a.scales.data<float>(),
      .a_scale_row = args.a.scales.row_stride(),
      .a_scale_step = 1,
      .b_scales = scales.data<float>(),
      .b_group_scales = group_scales,
      .offsets = OffsetsOf(args.offsets),
      .c = args.c.raw_mutable_data(),
      .c_stride = args.c.row_stride()};
  for (int64_t part = 0; part < (is_forward ? parts : 1); ++part) {
    HopperMatmulArgs of_part = product;
    of_part.b = static_cast<const uint8_t*>(product.b) + part * n * k;
    of_part.b_scales += part * (group_scales / parts);
    of_part.c = static_cast<uint8_t*>(product.c) + part * n * SizeOf(args.c.dtype());
    if (Run(stream, of_part)) continue;
    CHECK_EQ(part, 0) << "one part can be done and another cannot";
    return false;
  }
  return true;
}

// Scales come by TMA too, so that they must lie as it wants them.
bool Fp8WeightGradientByWgmma(Stream& stream, const Fp8WeightGradientArgs& args) {
  const auto has_scales = [](const QuantizedColumns& columns) {
    return columns.transposed && columns.scales.is_contiguous() &&
           reinterpret_cast<uint64_t>(columns.scales.raw_data()) % 16 == 0;
  };
  if (!has_scales(args.dy) || !has_scales(args.x)) return false;
  return Run(stream, {.shape = {.operands = MatmulOperands::kFp8Columns,
                                .grouping = GroupingOf(args.offsets, MatmulGrouping::kContracted),
                                .m = args.dw.extent(1),
                                .n = args.dw.extent(2),
                                .k = args.x.codes.extent(1),
                                .num_groups = args.dw.extent(0)},
                      .output = MatmulOutput::kAddToF32,
                      .a = args.dy.codes.raw_data(),
                      .b = args.x.codes.raw_data(),
                      .a_stride = args.dy.codes.row_stride(),
                      .b_stride = args.x.codes.row_stride(),
                      .a_scales = args.dy.scales.data<float>(),
                      .b_scales = args.x.scales.data<float>(),
                      .offsets = OffsetsOf(args.offsets),
                      .c = args.dw.raw_mutable_data(),
                      .c_stride = args.dw.extent(2)});
}

}  // namespace sluice::kernels::cuda
