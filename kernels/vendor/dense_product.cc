#include "kernels/vendor/dense_product.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace sluice::kernels::vendor {
namespace {

constexpr int64_t kScaleTile = 128;

absl::Status RefusedProduct(absl::string_view what, int64_t found, absl::string_view wanted) {
  return absl::UnimplementedError(absl::StrCat("cuBLASLt cannot do this product: ", what,
                                               ": found ", found, ", wanted ", wanted));
}

}  // namespace

absl::Status CheckDenseProduct(const DenseProduct& p) {
  for (const auto& [name, extent] : {std::pair("rows", p.m), {"columns", p.n}, {"depth", p.k}}) {
    if (extent < 1) return RefusedProduct(name, extent, "at least 1");
  }
  if (p.accumulate && p.result != DType::kF32) {
    return RefusedProduct("bytes of an accumulating result", 2, "4");
  }
  // Rows of 16 bytes: what tensor cores are fed by.
  const int64_t element = p.operands == DType::kE4M3 ? 1 : 2;
  const int64_t c_element = p.result == DType::kBF16 ? 2 : 4;
  for (const auto& [name, bytes] : {std::pair("bytes of a row of a", p.a_row * element),
                                    {"bytes of a row of b", p.b_row * element},
                                    {"bytes of a row of c", p.c_row * c_element}}) {
    if (bytes % 16 != 0) return RefusedProduct(name, bytes, "a multiple of 16");
  }
  if (p.operands != DType::kE4M3) return absl::OkStatus();
  if (p.transpose_a || !p.transpose_b) {
    return RefusedProduct("operands of E4M3 that are not contiguous along K", 1, "0");
  }
  if (p.accumulate) return RefusedProduct("E4M3 that accumulates", 1, "0");
  if (p.k % 16 != 0) return RefusedProduct("depth", p.k, "a multiple of 16");
  if (p.n % 16 != 0) return RefusedProduct("columns", p.n, "a multiple of 16");
  if (p.m % 4 != 0) return RefusedProduct("rows", p.m, "a multiple of 4 (scales of a)");
  return absl::OkStatus();
}

int64_t NumScaleTiles(int64_t extent) { return (extent + kScaleTile - 1) / kScaleTile; }

// A row of scales is 16 bytes, or a multiple.
int64_t BlockScaleRow(int64_t k) { return (NumScaleTiles(k) + 3) / 4 * 4; }

absl::StatusOr<DenseProduct> DenseProductOf(const cuda::HopperMatmulShape& shape, DType result,
                                            bool accumulate, const MatrixRows& rows) {
  using cuda::MatmulOperands;
  if (shape.grouping != cuda::MatmulGrouping::kDense) {
    return absl::UnimplementedError("cuBLASLt cannot do this product: groups of rows or of K");
  }
  if (shape.operands == MatmulOperands::kFp8Columns) {
    return absl::UnimplementedError(
        "cuBLASLt cannot do this product: both operands have a scale for 128 of a column");
  }
  const int64_t part = shape.k / shape.k_parts;
  if (shape.k_parts > 1 && part % kScaleTile != 0) {
    return RefusedProduct("depth in parts that have scales of their own", part,
                          "a multiple of 128");
  }
  const bool by_columns = shape.operands == MatmulOperands::kBF16Columns;
  const DenseProduct product = {
      .m = shape.m,
      .n = shape.n,
      .k = shape.k,
      .operands = shape.operands == MatmulOperands::kFp8Blocks ? DType::kE4M3 : DType::kBF16,
      .result = result,
      .transpose_a = by_columns,
      .transpose_b = !by_columns,
      .accumulate = accumulate,
      .a_row = rows.a,
      .b_row = rows.b,
      .c_row = rows.c};
  RETURN_IF_ERROR(CheckDenseProduct(product));
  return product;
}

}  // namespace sluice::kernels::vendor
