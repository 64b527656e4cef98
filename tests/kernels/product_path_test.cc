// Which kernels compute the products of DeepSeek-V2-Lite's layers (arXiv 2405.04434, appendix B).
#include "kernels/product_path.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sluice::kernels {
namespace {

using ::testing::HasSubstr;

constexpr LinearProduct kAll[] = {LinearProduct::kForward, LinearProduct::kInputGradient,
                                  LinearProduct::kWeightGradient};

LinearOnGpu GateUp(int64_t equal_parts) {
  return {.dtype = DType::kE4M3,
          .rows = 4096,
          .in = 2048,
          .out = 2 * 10944,
          .equal_parts = equal_parts};
}

TEST(ProductPath, WgmmaTakesGateAndUpOfAnyHeightAndNoOtherRaggedBlocks) {
  for (const LinearProduct product : kAll) {
    EXPECT_EQ(ProductPath(GateUp(2), product, MatmulKernels::kAuto).substr(0, 5), "wgmma");
  }
  EXPECT_EQ(ProductPath(GateUp(0), LinearProduct::kForward, MatmulKernels::kAuto), "mma.sync");
  EXPECT_EQ(ProductPath(GateUp(0), LinearProduct::kInputGradient, MatmulKernels::kAuto),
            "mma.sync");
  EXPECT_EQ(
      ProductPath(GateUp(0), LinearProduct::kWeightGradient, MatmulKernels::kAuto).substr(0, 5),
      "wgmma");
  EXPECT_EQ(ProductPath(GateUp(2), LinearProduct::kForward, MatmulKernels::kMmaSync), "mma.sync");
}

TEST(ProductPath, TheLibraryTakesDenseProductsAndInFp8NoGradientsOfWeights) {
  constexpr auto kLt = MatmulKernels::kCublasLt;
  LinearOnGpu linear = {.dtype = DType::kBF16, .rows = 4096, .in = 2048, .out = 3648};
  for (const LinearProduct product : kAll) {
    EXPECT_EQ(ProductPath(linear, product, kLt), "cuBLASLt");
    EXPECT_TRUE(CheckByCublasLt(linear, product).ok());
  }
  linear.dtype = DType::kE4M3;
  EXPECT_EQ(ProductPath(linear, LinearProduct::kForward, kLt), "cuBLASLt");
  EXPECT_EQ(ProductPath(linear, LinearProduct::kInputGradient, kLt), "cuBLASLt");
  EXPECT_EQ(ProductPath(linear, LinearProduct::kWeightGradient, kLt).substr(0, 5), "wgmma");
  linear.is_grouped = true;
  linear.experts = 64;
  EXPECT_EQ(ProductPath(linear, LinearProduct::kForward, kLt).substr(0, 5), "wgmma");
  linear.dtype = DType::kF32;
  for (const LinearProduct product : kAll) {
    EXPECT_EQ(ProductPath(linear, product, kLt), "FFMA");
    EXPECT_TRUE(CheckByCublasLt(linear, product).ok());
  }
}

TEST(ProductPath, WhatTheLibraryCannotDoIsOneSentence) {
  EXPECT_TRUE(CheckByCublasLt(GateUp(2), LinearProduct::kForward).ok());
  EXPECT_EQ(CheckByCublasLt(GateUp(2), LinearProduct::kInputGradient).message(),
            "cuBLASLt cannot do this product: depth in parts that have scales of their own: found "
            "10944, wanted a multiple of 128");
  EXPECT_THAT(std::string(CheckByCublasLt(GateUp(0), LinearProduct::kForward).message()),
              HasSubstr("blocks of other heights than 128"));
  LinearOnGpu odd = {.dtype = DType::kE4M3, .rows = 1022, .in = 2048, .out = 2048};
  EXPECT_THAT(std::string(CheckByCublasLt(odd, LinearProduct::kForward).message()),
              HasSubstr("rows: found 1022, wanted a multiple of 4"));
  odd = {.dtype = DType::kBF16, .rows = 1024, .in = 2048, .out = 50257};
  EXPECT_THAT(std::string(CheckByCublasLt(odd, LinearProduct::kForward).message()),
              HasSubstr("bytes of a row of c: found 100514, wanted a multiple of 16"));
}

}  // namespace
}  // namespace sluice::kernels
