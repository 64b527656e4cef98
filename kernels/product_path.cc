#include "kernels/product_path.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/cuda/hopper_matmul_config.h"
#include "kernels/ops/block_quantize.h"
#include "kernels/vendor/dense_product.h"

namespace sluice::kernels {
namespace {

using cuda::HopperMatmulShape;
using cuda::MatmulGrouping;
using cuda::MatmulOperands;

// As kernels/cuda/hopper_ops.cc makes it.
HopperMatmulShape ShapeOf(const LinearOnGpu& l, LinearProduct product) {
  const bool is_fp8 = l.dtype == DType::kE4M3;
  HopperMatmulShape shape;
  shape.num_groups = l.experts;
  shape.m = l.rows;
  if (product == LinearProduct::kWeightGradient) {
    shape.operands = is_fp8 ? MatmulOperands::kFp8Columns : MatmulOperands::kBF16Columns;
    shape.grouping = l.is_grouped ? MatmulGrouping::kContracted : MatmulGrouping::kDense;
    shape.m = l.out;
    shape.n = l.in;
    shape.k = is_fp8 ? NumColumnCodes(l.rows, l.experts) : l.rows;
    return shape;
  }
  const bool is_forward = product == LinearProduct::kForward;
  const int64_t parts = is_fp8 ? std::max<int64_t>(l.equal_parts, 1) : 1;
  shape.operands = is_fp8 ? MatmulOperands::kFp8Blocks : MatmulOperands::kBF16;
  shape.grouping = l.is_grouped ? MatmulGrouping::kRows : MatmulGrouping::kDense;
  shape.n = is_forward ? l.out / parts : l.in;
  shape.k = is_forward ? l.in : l.out;
  shape.k_parts = is_forward ? 1 : parts;
  return shape;
}

// A weight in blocks of other heights than 128 is not what the kernels for blocks read.
bool HasBlocks(const LinearOnGpu& l, LinearProduct product) {
  return l.dtype != DType::kE4M3 || product == LinearProduct::kWeightGradient || l.equal_parts > 0;
}

// What the library is asked for at all.
bool IsForLibrary(const LinearOnGpu& l, LinearProduct product) {
  const bool is_fp8_gradient = l.dtype == DType::kE4M3 && product == LinearProduct::kWeightGradient;
  return l.dtype != DType::kF32 && !l.is_grouped && !is_fp8_gradient;
}

}  // namespace

std::string ProductPath(const LinearOnGpu& l, LinearProduct product, MatmulKernels kernels,
                        int num_multiprocessors) {
  if (l.dtype == DType::kF32) return "FFMA";
  if (kernels == MatmulKernels::kCublasLt && IsForLibrary(l, product) &&
      CheckByCublasLt(l, product).ok()) {
    return "cuBLASLt";
  }
  const HopperMatmulShape shape = ShapeOf(l, product);
  const bool by_columns = shape.operands == MatmulOperands::kBF16Columns;
  const int64_t element = l.dtype == DType::kE4M3 ? 1 : 2;
  const cuda::MatrixPlace a = {.row_bytes = element * (by_columns ? shape.m : shape.k)};
  const cuda::MatrixPlace b = {.row_bytes = element * (by_columns ? shape.n : shape.k)};
  if (kernels == MatmulKernels::kMmaSync || !HasBlocks(l, product) ||
      !CheckHopperMatmul(shape, a, b).ok()) {
    return "mma.sync";
  }
  const auto config = ChooseHopperMatmul(shape, num_multiprocessors);
  CHECK(config.ok()) << config.status().message();
  return absl::StrCat("wgmma ", config->block_m, "x", config->block_n);
}

absl::Status CheckByCublasLt(const LinearOnGpu& l, LinearProduct product) {
  if (!IsForLibrary(l, product)) return absl::OkStatus();
  if (!HasBlocks(l, product)) {
    return absl::UnimplementedError(
        "cuBLASLt cannot do this product: found a weight in blocks of other heights than 128, "
        "wanted 128");
  }
  const HopperMatmulShape shape = ShapeOf(l, product);
  const bool is_gradient = product == LinearProduct::kWeightGradient;
  const bool has_parts = product == LinearProduct::kForward && shape.n != l.out;
  return vendor::DenseProductOf(shape,
                                is_gradient || (product == LinearProduct::kForward && l.is_f32)
                                    ? DType::kF32
                                    : DType::kBF16,
                                is_gradient,
                                {.a = is_gradient ? shape.m : shape.k,
                                 .b = is_gradient ? shape.n : shape.k,
                                 .c = has_parts ? l.out : shape.n})
      .status();
}

}  // namespace sluice::kernels
