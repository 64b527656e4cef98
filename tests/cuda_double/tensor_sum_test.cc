#include "tests/cuda_double/exec/tensor_sum.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/cuda_double/exec/formats.h"
#include "tests/support/source_path.h"

namespace sluice::cuda_double {
namespace {

constexpr auto kWarpgroup = TensorInstruction::kE4M3ByWarpgroup;

uint32_t Hex(const std::string& digits) {
  return static_cast<uint32_t>(std::stoul(digits, nullptr, 16));
}

// Bytes of a row, `each` of them a number, the lowest first.
std::vector<float> Numbers(const std::string& hex, int each) {
  std::vector<float> numbers;
  for (size_t at = 0; at < hex.size(); at += 2 * static_cast<size_t>(each)) {
    const uint32_t low = Hex(hex.substr(at, 2));
    numbers.push_back(
        each == 1 ? FromE4M3(static_cast<uint8_t>(low))
                  : FromBFloat16(static_cast<uint16_t>(low | Hex(hex.substr(at + 2, 2)) << 8)));
  }
  return numbers;
}

TEST(TensorSum, HasTheBitsOfAnH100) {
  std::ifstream file(testing::SourcePath("tests/golden/h100/tensor_cores.json"));
  const nlohmann::json vectors = nlohmann::json::parse(file);
  int differ_exactly = 0;
  for (const char* type : {"e4m3", "bf16"}) {
    const bool is_fp8 = std::string(type) == "e4m3";
    ASSERT_EQ(vectors[type].size(), 300u);
    for (const auto& v : vectors[type]) {
      const std::vector<float> a = Numbers(v[0], is_fp8 ? 1 : 2), b = Numbers(v[1], is_fp8 ? 1 : 2);
      const auto sum = std::bit_cast<float>(Hex(v[2]));
      const auto by = [&](TensorInstruction instruction, Accumulator how) {
        return std::bit_cast<uint32_t>(
            TensorSum(sum, a.data(), b.data(), a.size(), how, instruction));
      };
      const auto warpgroup = is_fp8 ? kWarpgroup : TensorInstruction::kBF16;
      const auto warp = is_fp8 ? TensorInstruction::kE4M3ByWarp : TensorInstruction::kBF16;
      EXPECT_EQ(by(warpgroup, Accumulator::kH100), Hex(v[3])) << type << " wgmma " << v;
      EXPECT_EQ(by(warp, Accumulator::kH100), Hex(v[4])) << type << " mma.sync " << v;
      differ_exactly += by(warpgroup, Accumulator::kExact) != Hex(v[3]);
    }
  }
  EXPECT_GT(differ_exactly, 300) << "vectors that exact sums match show nothing";
}

// 13 bits below the largest term: 2^-13 of it counts, 2^-14 does not, with either sign.
TEST(TensorSum, CodesKeepThirteenBitsBelowTheLargest) {
  const float a[] = {256, 1.0f / 32, -1.0f / 64}, b[] = {1, 1, 1};
  EXPECT_EQ(TensorSum(0, a, b, 2, Accumulator::kH100, kWarpgroup), 256.03125f);
  EXPECT_EQ(TensorSum(0, a, b, 3, Accumulator::kH100, kWarpgroup), 256.03125f);
  EXPECT_EQ(TensorSum(0, a, b, 3, Accumulator::kExact, kWarpgroup), 256.015625f);
  EXPECT_EQ(TensorSum(-256, a, b, 2, Accumulator::kH100, kWarpgroup), 0.03125f);
  EXPECT_EQ(TensorSum(0, a, b, 0, Accumulator::kH100, kWarpgroup), 0);
}

}  // namespace
}  // namespace sluice::cuda_double
