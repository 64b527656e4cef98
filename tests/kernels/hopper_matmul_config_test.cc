// How matrix products are cut for Hopper, for the shapes of DeepSeek-V3 and V2-Lite: no GPU needed.
#include "kernels/cuda/hopper_matmul_config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/support/source_path.h"

namespace sluice::kernels::cuda {
namespace {

constexpr int kMultiprocessors = 132;                            // H100 SXM and H800
constexpr double kTeraflops = 1979, kTerabytesPerSecond = 3.35;  // dense FP8, HBM: data sheet
constexpr int64_t kTokens = 4096;

struct Linear {
  std::string name;
  int64_t n, k;
};
// Forward; the input gradient of each is the same with n and k exchanged.
const std::vector<Linear>& DeepSeekV3() {
  static const auto& linears = *new std::vector<Linear>{{"q_a + kv_a", 2112, 7168},
                                                        {"q_b", 24576, 1536},
                                                        {"kv_b", 32768, 512},
                                                        {"o", 7168, 16384},
                                                        {"dense gate + up", 36864, 7168},
                                                        {"dense down", 7168, 18432},
                                                        {"shared gate + up", 4096, 7168},
                                                        {"shared down", 7168, 2048}};
  return linears;
}
const std::vector<Linear>& DeepSeekV2Lite() {
  static const auto& linears =
      *new std::vector<Linear>{{"q + kv_a", 3648, 2048},    {"kv_b", 4096, 512},
                               {"o", 2048, 2048},           {"dense gate + up", 21888, 2048},
                               {"dense down", 2048, 10944}, {"shared gate + up", 5632, 2048},
                               {"shared down", 2048, 2816}};
  return linears;
}

bool IsBF16(MatmulOperands operands) {
  return operands == MatmulOperands::kBF16 || operands == MatmulOperands::kBF16Columns;
}

// Every product of a training step of one linear layer.
std::vector<HopperMatmulShape> ShapesOf(const Linear& linear, int64_t m) {
  std::vector<HopperMatmulShape> shapes;
  for (const MatmulOperands operands : {MatmulOperands::kFp8Blocks, MatmulOperands::kBF16}) {
    shapes.push_back({operands, MatmulGrouping::kDense, m, linear.n, linear.k, 1});
    shapes.push_back({operands, MatmulGrouping::kDense, m, linear.k, linear.n, 1});
  }
  const int64_t padded = (m + 127) / 128 * 128;
  shapes.push_back(
      {MatmulOperands::kFp8Columns, MatmulGrouping::kDense, linear.n, linear.k, padded, 1});
  shapes.push_back(
      {MatmulOperands::kBF16Columns, MatmulGrouping::kDense, linear.n, linear.k, m, 1});
  return shapes;
}

std::vector<HopperMatmulShape> ExpertShapes(const Linear& linear, int64_t rows, int64_t experts) {
  std::vector<HopperMatmulShape> shapes;
  for (const MatmulOperands operands : {MatmulOperands::kFp8Blocks, MatmulOperands::kBF16}) {
    shapes.push_back({operands, MatmulGrouping::kRows, rows, linear.n, linear.k, experts});
  }
  shapes.push_back({MatmulOperands::kFp8Columns, MatmulGrouping::kContracted, linear.n, linear.k,
                    (rows + 127) / 128 * 128, experts});
  shapes.push_back({MatmulOperands::kBF16Columns, MatmulGrouping::kContracted, linear.n, linear.k,
                    rows, experts});
  return shapes;
}

std::vector<HopperMatmulShape> AllShapes() {
  std::vector<HopperMatmulShape> all;
  const auto add = [&](const std::vector<HopperMatmulShape>& shapes) {
    all.insert(all.end(), shapes.begin(), shapes.end());
  };
  for (const int64_t m : {int64_t{1}, int64_t{64}, int64_t{1000}, kTokens}) {
    for (const Linear& linear : DeepSeekV3()) add(ShapesOf(linear, m));
    for (const Linear& linear : DeepSeekV2Lite()) add(ShapesOf(linear, m));
    add(ExpertShapes({"experts", 4096, 7168}, 8 * m, 4));
    add(ExpertShapes({"experts", 7168, 2048}, 8 * m, 4));
    add(ExpertShapes({"experts", 2816, 2048}, 6 * m, 64));
    add(ExpertShapes({"experts", 2048, 1408}, 6 * m, 64));
  }
  return all;
}

TEST(HopperMatmulConfig, FitsTheMultiprocessorForEveryShape) {
  for (const HopperMatmulShape& shape : AllShapes()) {
    SCOPED_TRACE(
        absl::StrCat(shape.m, " x ", shape.n, " x ", shape.k, " groups ", shape.num_groups));
    for (const int multiprocessors : {1, 78, kMultiprocessors}) {
      const auto config = ChooseHopperMatmul(shape, multiprocessors);
      ASSERT_TRUE(config.ok()) << config.status();
      SCOPED_TRACE(config->ToString());
      const bool is_bf16 = IsBF16(shape.operands);
      EXPECT_TRUE(config->block_m == 64 || config->block_m == 128);
      EXPECT_TRUE(config->block_n == 64 || config->block_n == 128 || config->block_n == 192 ||
                  config->block_n == 256);
      EXPECT_EQ(config->block_k, is_bf16 ? 64 : 128);
      EXPECT_EQ(config->num_threads, 128 + 2 * config->block_m);
      EXPECT_GE(config->num_stages, 2);
      EXPECT_LE(config->num_stages, kMaxStages);
      EXPECT_LE(config->shared_bytes, kHopperSharedBytes);
      EXPECT_GE(config->num_blocks, 1);
      EXPECT_LE(config->num_blocks, multiprocessors);
      // As many stages as fit, up to what the ring can use.
      const int64_t steps = (shape.k + config->block_k - 1) / config->block_k;
      if (config->num_stages < std::min<int64_t>(kMaxStages, std::max<int64_t>(steps, 2))) {
        EXPECT_GT(HopperMatmulSharedBytes(shape.operands, config->block_m, config->block_n,
                                          config->num_stages + 1),
                  kHopperSharedBytes);
      }
    }
  }
}

// None of them goes to mma.sync, if its operands lie without gaps.
TEST(HopperMatmulConfig, EveryShapeIsOneForTheTensorCoresOfHopper) {
  for (const HopperMatmulShape& shape : AllShapes()) {
    const int64_t element = IsBF16(shape.operands) ? 2 : 1;
    const bool is_turned = shape.operands == MatmulOperands::kBF16Columns;
    const int64_t a_row = element * (is_turned ? shape.m : shape.k);
    const int64_t b_row = element * (is_turned ? shape.n : shape.k);
    const absl::Status status =
        CheckHopperMatmul(shape, {.row_bytes = a_row}, {.address = 256, .row_bytes = b_row});
    EXPECT_TRUE(status.ok()) << shape.m << " x " << shape.n << " x " << shape.k << ": " << status;
  }
}

TEST(HopperMatmulConfig, SmallTilesWhereLargeOnesWouldLeaveMultiprocessorsIdle) {
  const HopperMatmulShape few_rows = {
      MatmulOperands::kFp8Blocks, MatmulGrouping::kDense, 64, 2112, 7168, 1};
  EXPECT_EQ(ChooseHopperMatmul(few_rows, kMultiprocessors)->block_n, 64);
  HopperMatmulShape many_rows = few_rows;
  many_rows.m = 65536;
  many_rows.n = 4096;
  EXPECT_EQ(ChooseHopperMatmul(many_rows, kMultiprocessors)->block_m, 128);
  EXPECT_EQ(ChooseHopperMatmul(many_rows, kMultiprocessors)->block_n, 256);
  // Three waves, the last of which is all but full.
  HopperMatmulShape some_rows = few_rows;
  some_rows.m = 4096;
  EXPECT_EQ(ChooseHopperMatmul(some_rows, kMultiprocessors)->block_n, 192);
}

TEST(HopperMatmulConfig, RefusesByNameWhatTheCopiesCannotRead) {
  HopperMatmulShape shape = {MatmulOperands::kFp8Blocks, MatmulGrouping::kDense, 8, 8, 24, 1};
  EXPECT_EQ(ChooseHopperMatmul(shape, 1).status().message(),
            "matmul: found K = 24, wanted a multiple of 16 for FP8");
  shape.operands = MatmulOperands::kBF16;
  EXPECT_TRUE(ChooseHopperMatmul(shape, 1).ok());
  shape.k = 20;
  EXPECT_EQ(ChooseHopperMatmul(shape, 1).status().message(),
            "matmul: found K = 20, wanted a multiple of 8 for BF16");
  shape = {MatmulOperands::kFp8Blocks, MatmulGrouping::kDense, 8, 8, 48, 1, 2};
  EXPECT_EQ(ChooseHopperMatmul(shape, 1).status().message(),
            "matmul: found a part of K = 24, wanted a multiple of 16 for FP8");
  shape.k = 416;  // two parts of 208
  const MatrixPlace whole = {.row_bytes = 416}, apart = {.row_bytes = 432};
  EXPECT_TRUE(CheckHopperMatmul(shape, whole, whole).ok());
  EXPECT_EQ(CheckHopperMatmul(shape, apart, whole).message(),
            "matmul: found rows of a 432 bytes apart, wanted a multiple of 208");
  shape = {MatmulOperands::kBF16, MatmulGrouping::kRows, 8, int64_t{1} << 25, 16, 64};
  EXPECT_EQ(ChooseHopperMatmul(shape, 1).status().message(),
            "matmul: found an extent of 2147483648, wanted less than 2^31");
}

// DeepSeek-V2-Lite's dense layer: gate and up are 85.5 blocks each.
TEST(HopperMatmulConfig, EachPartOfKIsStepsOfItsOwn) {
  const HopperMatmulShape shape = {
      MatmulOperands::kFp8Blocks, MatmulGrouping::kDense, kTokens, 2048, 21888, 1, 2};
  EXPECT_EQ(NumStepsOfK(shape), 2 * 86);
  HopperMatmulShape whole = shape;
  whole.k_parts = 1;
  EXPECT_EQ(NumStepsOfK(whole), 171);
  EXPECT_TRUE(CheckHopperMatmul(shape, {.row_bytes = 21888}, {.row_bytes = 21888}).ok());
}

// One line of the table of docs/kernels.md. Time floor: arithmetic or memory, whichever is slower.
// Ceiling: the share of the arithmetic that whole waves of tiles leave.
std::string TableRow(const std::string& name, const HopperMatmulShape& shape,
                     const std::string& published) {
  const HopperMatmulConfig config = *ChooseHopperMatmul(shape, kMultiprocessors);
  const double m = static_cast<double>(shape.m), n = static_cast<double>(shape.n),
               k = static_cast<double>(shape.k), groups = static_cast<double>(shape.num_groups);
  const double flops = 2 * m * n * k, bytes = m * k + groups * n * k + 2 * m * n;
  const double arithmetic_us = flops / kTeraflops / 1e6,
               memory_us = bytes / kTerabytesPerSecond / 1e6;
  const double done =
      static_cast<double>(config.num_waves * kMultiprocessors) * config.block_m * config.block_n;
  return absl::StrFormat(
      "| %s | %d x %d x %d | %.1f | %.0f | %.1f | %dx%d, %d stages | %.0f%% | %s |", name, shape.m,
      shape.n, shape.k, flops / 1e9, bytes / 1e6, std::max(arithmetic_us, memory_us),
      config.block_m, config.block_n, config.num_stages, 100 * m * n / done, published);
}

TEST(HopperMatmulConfig, TheTableOfTheDocumentIsWhatIsChosen) {
  std::ifstream file(testing::SourcePath("docs/kernels.md"));
  std::stringstream text;
  text << file.rdbuf();
  // DeepGEMM on H800, its README of 2025-04-09; "-" where it gives none.
  const std::vector<std::string> published = {"1127", "1212", "775",  "1520",
                                              "-",    "-",    "1410", "1168"};
  std::vector<std::string> rows;
  for (size_t i = 0; i < DeepSeekV3().size(); ++i) {
    const Linear& linear = DeepSeekV3()[i];
    rows.push_back(TableRow(
        linear.name,
        {MatmulOperands::kFp8Blocks, MatmulGrouping::kDense, kTokens, linear.n, linear.k, 1},
        published[i]));
  }
  rows.push_back(TableRow("4 experts, gate + up",
                          {MatmulOperands::kFp8Blocks, MatmulGrouping::kRows, 32768, 4096, 7168, 4},
                          "1346"));
  rows.push_back(TableRow("4 experts, down",
                          {MatmulOperands::kFp8Blocks, MatmulGrouping::kRows, 32768, 7168, 2048, 4},
                          "1214"));
  for (const std::string& row : rows) {
    EXPECT_NE(text.str().find(row), std::string::npos) << "docs/kernels.md lacks\n" << row;
  }
}

}  // namespace
}  // namespace sluice::kernels::cuda
