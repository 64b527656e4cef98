// What can be shown of cuDNN without a GPU: that it loads, and that it takes every tensor and
// operation of our graph of causal attention. tests/gpu_check runs it.
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/vendor/cudnn_attention.h"

namespace sluice::kernels::vendor {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<Cudnn> LoadCudnn() {
  auto created = Cudnn::Create(/*device=*/false);
  if (!created.ok()) return nullptr;
  return *std::move(created);
}

TEST(Cudnn, TakesEveryTensorAndOperationOfAttention) {
  const auto cudnn = LoadCudnn();
  if (cudnn == nullptr) GTEST_SKIP() << "no libcudnn on this machine";
  for (const FusedAttention& attention :
       {FusedAttention{
            .sequences = 1, .tokens = 4096, .heads = 128, .qk_width = 192, .v_width = 128},
        FusedAttention{.sequences = 4, .tokens = 1000, .heads = 16, .qk_width = 64, .v_width = 64},
        FusedAttention{.sequences = 2,  // V2-Lite: v lies beside k's first part
                       .tokens = 256,
        .heads = 16,
        .qk_width = 192,
        .v_width = 128,
        .v_row = 16 * 256}}) {
    const auto described = cudnn->Describe(attention);
    ASSERT_TRUE(described.ok()) << described.status();
    // 7 tensors with memory or a value and 12 between operations; 14 operations (two products, two
    // reductions, ten pointwise), each with a descriptor of its kind.
    EXPECT_EQ(*described, 7 + 12 + 2 * 14);
  }
}

TEST(Cudnn, ShapesItCannotDoAreOneSentence) {
  EXPECT_EQ(CheckFusedAttention(
                {.sequences = 1, .tokens = 8, .heads = 1, .qk_width = 192, .v_width = 300})
                .message(),
            "cuDNN cannot do this attention: width of v: found 300, wanted a multiple of 8 up to "
            "256");
  EXPECT_THAT(
      std::string(
          CheckFusedAttention(
              {.sequences = 1, .tokens = 8, .heads = 1, .qk_width = 64, .v_width = 64, .k_row = 68})
              .message()),
      HasSubstr("row of k: found 68, wanted a multiple of 8"));
  EXPECT_THAT(
      std::string(CheckFusedAttention({.heads = 1, .qk_width = 64, .v_width = 64}).message()),
      HasSubstr("tokens: found 0, wanted at least 1"));
}

TEST(Cudnn, WithoutADeviceItIsRefusedInOneSentence) {
  if (LoadCudnn() == nullptr) GTEST_SKIP() << "no libcudnn on this machine";
  const auto created = Cudnn::Create(/*device=*/true);
  if (created.ok()) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_THAT(std::string(created.status().message()), HasSubstr("creating its handle: "));
}

}  // namespace
}  // namespace sluice::kernels::vendor
