// What a dry run says of the kernels that a run on a GPU computes by, and what is refused at start.
#include "trainer/loop/product_table.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/trainer/small_run.h"
#include "trainer/loop/resolve_config.h"

namespace sluice::trainer {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

// Gate and up of 208 rows each, heads of 64.
RunConfig OnGpu(const std::string& precision) {
  RunConfig config = SmallConfig(precision);
  config.mutable_compute()->set_device("cuda");
  config.mutable_data()->set_document_mask(false);
  ModelConfig& m = *config.mutable_model();
  m.set_vocab_size(256);
  m.set_hidden_size(128);
  m.set_intermediate_size(208);
  m.set_moe_intermediate_size(128);
  m.set_q_lora_rank(64);
  m.set_kv_lora_rank(64);
  m.set_qk_nope_head_dim(64);
  m.set_qk_rope_head_dim(64);
  m.set_v_head_dim(64);
  return config;
}

std::string DryRunOf(const RunConfig& config) {
  const auto resolved = Resolve(config, 1);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  if (!resolved.ok()) return "";
  const auto text = DryRun(*resolved, 1);
  return text.ok() ? *text : std::string(text.status().message());
}

TEST(ProductTable, NamesEveryKindOfLayerAndItsKernels) {
  const std::string text = DryRunOf(OnGpu("FP8"));
  EXPECT_THAT(text, HasSubstr("products on a GPU"));
  EXPECT_THAT(text, ContainsRegex("  mlp.gate_proj . up_proj  *e4m3  *128  *416  wgmma [0-9x]*  *"
                                  "wgmma [0-9x]*  *wgmma [0-9x]*\n"));
  EXPECT_THAT(text, ContainsRegex("  mlp.experts.gate_proj . up_proj x 8  *e4m3  *128  *256  "
                                  "wgmma"));
  EXPECT_THAT(text, ContainsRegex("  lm_head  *bf16  *128  *256  wgmma"));
  EXPECT_THAT(text, ContainsRegex("  mlp.gate  *bf16  *128  *8  wgmma"));
  RunConfig plain = OnGpu("FP32");
  EXPECT_THAT(DryRunOf(plain), HasSubstr("FFMA"));
  plain.mutable_compute()->set_device("cpu");
  EXPECT_EQ(DryRunOf(plain).find("products on a GPU"), std::string::npos);
}

TEST(ProductTable, ALibraryTakesDenseLayers) {
  RunConfig config = OnGpu("BF16");
  config.mutable_compute()->set_matmul_kernels("cuBLASLt");
  const std::string text = DryRunOf(config);
  EXPECT_THAT(text, ContainsRegex("  mlp.gate_proj . up_proj  *bf16  *128  *416  cuBLASLt  *"
                                  "cuBLASLt  *cuBLASLt"));
  EXPECT_THAT(text, ContainsRegex("  mlp.experts.gate_proj . up_proj x 8  *bf16 .*wgmma"));
}

TEST(CheckLibraries, WhatALibraryCannotDoIsRefusedAtStartByName) {
  RunConfig config = OnGpu("FP8");
  config.mutable_compute()->set_matmul_kernels("cublaslt");
  const auto resolved = Resolve(config, 1);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  const absl::Status status = CheckLibraries(*resolved);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("compute.matmul_kernels: found cublaslt, wanted auto: "));
  EXPECT_THAT(std::string(status.message()), HasSubstr("cuBLASLt cannot do this product: "));
  EXPECT_EQ(DryRunOf(config), status.message());

  RunConfig heads = OnGpu("BF16");
  heads.mutable_compute()->set_attention_kernels("cudnn");
  EXPECT_TRUE(CheckLibraries(*Resolve(heads, 1)).ok());
  heads.mutable_model()->set_v_head_dim(300);
  EXPECT_EQ(CheckLibraries(*Resolve(heads, 1)).message(),
            "compute.attention_kernels: found cudnn, wanted auto: cuDNN cannot do this attention: "
            "width of v: found 300, wanted a multiple of 8 up to 256");
}

}  // namespace
}  // namespace sluice::trainer
