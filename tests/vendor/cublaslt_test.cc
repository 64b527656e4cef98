// What can be shown of cuBLASLt without a GPU: that it loads, that it takes our descriptions of
// every product of two real models, and what is refused before it is asked. tests/gpu_check runs it.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/vendor/cublaslt_matmul.h"

namespace sluice::kernels::vendor {
namespace {

using ::testing::HasSubstr;

struct Linear {
  const char* name;
  int64_t out, in;
};
// DeepSeek-V3 (arXiv 2412.19437, section 4.2) and DeepSeek-V2-Lite (arXiv 2405.04434, appendix B).
constexpr Linear kLinears[] = {
    {"V3 q_a", 1536, 7168},
    {"V3 q_b", 24576, 1536},
    {"V3 kv_b", 32768, 512},
    {"V3 o", 7168, 16384},
    {"V3 gate_up", 36864, 7168},
    {"V3 down", 7168, 18432},
    {"V3 shared gate_up", 4096, 7168},
    {"V3 shared down", 7168, 2048},
    {"Lite q", 3072, 2048},
    {"Lite o", 2048, 2048},
    {"Lite gate_up", 21888, 2048},
};
constexpr int64_t kTokens = 4096;

DenseProduct Forward(const Linear& linear, DType operands) {
  return {.m = kTokens,
          .n = linear.out,
          .k = linear.in,
          .operands = operands,
          .result = DType::kBF16,
          .a_row = linear.in,
          .b_row = linear.in,
          .c_row = linear.out};
}
// dw [O, I] += dy [T, O]^T x [T, I].
DenseProduct WeightGradient(const Linear& linear) {
  return {.m = linear.out,
          .n = linear.in,
          .k = kTokens,
          .transpose_a = true,
          .transpose_b = false,
          .accumulate = true,
          .a_row = linear.out,
          .b_row = linear.in,
          .c_row = linear.in};
}

// Without a device.
std::unique_ptr<CublasLt> Load() {
  auto created = CublasLt::Create(/*device=*/false);
  if (!created.ok()) return nullptr;
  return *std::move(created);
}
#define SKIP_WITHOUT_LIBRARY(lt) \
  if (lt == nullptr) GTEST_SKIP() << "no libcublasLt on this machine"

TEST(CublasLt, TakesTheDescriptionOfEveryProduct) {
  const auto lt = Load();
  SKIP_WITHOUT_LIBRARY(lt);
  EXPECT_THAT(lt->Version(), HasSubstr("."));
  for (const Linear& linear : kLinears) {
    for (const DenseProduct& product :
         {Forward(linear, DType::kBF16), Forward(linear, DType::kE4M3), WeightGradient(linear)}) {
      const absl::Status status = lt->Describe(product);
      EXPECT_TRUE(status.ok()) << linear.name << ": " << status;
      EXPECT_TRUE(lt->Describe(product).ok()) << "a second time, from what is kept";
    }
  }
}

TEST(CublasLt, ShapesItCannotDoAreOneSentenceWithFoundAndWanted) {
  const Linear linear = {"", 4096, 7168};
  DenseProduct odd_rows = Forward(linear, DType::kE4M3);
  odd_rows.m = 4095;
  EXPECT_EQ(CheckDenseProduct(odd_rows).message(),
            "cuBLASLt cannot do this product: rows: found 4095, wanted a multiple of 4 (scales of "
            "a)");
  // 11 tiles, V2-Lite's experts: a row of scales is filled up.
  EXPECT_TRUE(CheckDenseProduct(Forward({"", 4096, 1408}, DType::kE4M3)).ok());
  EXPECT_EQ(BlockScaleRow(1408), 12);
  EXPECT_EQ(BlockScaleRow(512), 4);
  DenseProduct strided = Forward(linear, DType::kBF16);
  strided.a_row = 7171;
  EXPECT_THAT(std::string(CheckDenseProduct(strided).message()),
              HasSubstr("bytes of a row of a: found 14342, wanted a multiple of 16"));
  DenseProduct transposed = Forward(linear, DType::kE4M3);
  transposed.transpose_b = false;
  EXPECT_THAT(std::string(CheckDenseProduct(transposed).message()),
              HasSubstr("contiguous along K"));
  DenseProduct empty = Forward(linear, DType::kBF16);
  empty.n = 0;
  EXPECT_FALSE(CheckDenseProduct(empty).ok());
  const auto lt = Load();
  SKIP_WITHOUT_LIBRARY(lt);
  EXPECT_EQ(lt->Describe(odd_rows).code(), absl::StatusCode::kUnimplemented);
}

TEST(CublasLt, GroupsAndTwoColumnsOfScalesAreNotForIt) {
  cuda::HopperMatmulShape shape = {cuda::MatmulOperands::kFp8Blocks, cuda::MatmulGrouping::kDense,
                                   64, 128, 256};
  const MatrixRows rows = {.a = 256, .b = 256, .c = 128};
  const auto product = DenseProductOf(shape, DType::kBF16, false, rows);
  ASSERT_TRUE(product.ok()) << product.status();
  EXPECT_EQ(product->operands, DType::kE4M3);
  EXPECT_EQ(product->k, 256);
  shape.k_parts = 2;  // of 128 each: the blocks are where the library looks for them
  EXPECT_TRUE(DenseProductOf(shape, DType::kBF16, false, rows).ok());
  shape.k = 2 * 144;
  EXPECT_THAT(std::string(DenseProductOf(shape, DType::kBF16, false, rows).status().message()),
              HasSubstr("found 144, wanted a multiple of 128"));
  shape.grouping = cuda::MatmulGrouping::kRows;
  EXPECT_THAT(std::string(DenseProductOf(shape, DType::kBF16, false, rows).status().message()),
              HasSubstr("groups of rows"));
  const cuda::HopperMatmulShape columns = {cuda::MatmulOperands::kFp8Columns,
                                           cuda::MatmulGrouping::kDense, 64, 128, 256};
  EXPECT_FALSE(DenseProductOf(columns, DType::kF32, true, rows).ok());
}

TEST(CublasLt, WithoutADeviceItIsRefusedInOneSentence) {
  SKIP_WITHOUT_LIBRARY(Load());
  const auto created = CublasLt::Create(/*device=*/true);
  if (created.ok()) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_THAT(std::string(created.status().message()), HasSubstr("creating its handle: "));
}

TEST(CublasLt, AMissingLibraryIsNamedWithWhatWasTried) {
  const auto created = CublasLt::Create(true, {"libcublasLt_of_nobody.so"});
  ASSERT_FALSE(created.ok());
  EXPECT_EQ(created.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(created.status().message()), HasSubstr("libcublasLt_of_nobody.so"));
  EXPECT_THAT(std::string(CublasLt::Create(true, {"libm.so.6"}).status().message()),
              HasSubstr("has no cublasLtCreate"));
}

}  // namespace
}  // namespace sluice::kernels::vendor
