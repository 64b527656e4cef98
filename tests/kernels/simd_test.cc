// simd-inl.h under every target of this machine.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/core/exp.h"
#include "kernels/core/philox.h"
#include "kernels/cpu/target.h"

namespace sluice::kernels::cpu {
namespace {

struct SimdTable {
  int lanes;
  void (*exp)(const float* x, float* y, int n);
  void (*sigmoid)(const float* x, float* y, int n);
  void (*silu)(const float* x, float* y, int n);
  void (*silu_slope)(const float* x, const float* s, float* y, int n);
  void (*copy)(const float* x, float* y, int n);
  void (*narrow)(const float* x, BFloat16* y, int n);
  void (*widen)(const BFloat16* x, float* y, int n);
  void (*arithmetic)(const float* x, float* y);
};

}  // namespace
}  // namespace sluice::kernels::cpu

#define SLUICE_TARGET_FILE "tests/kernels/simd_test-inl.h"
#include "kernels/cpu/foreach_target.h"

namespace sluice::kernels::cpu {
namespace {

class Simd : public ::testing::TestWithParam<Target> {
 protected:
  const SimdTable table_ = SLUICE_TABLE_OF(kSimdTable, GetParam());
};
INSTANTIATE_TEST_SUITE_P(Targets, Simd, ::testing::ValuesIn(AvailableTargets()),
                         [](const auto& info) { return std::string(NameOf(info.param)); });

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Floats of every size and sign, from random bits, and the special ones.
std::vector<float> ManyFloats() {
  std::vector<float> floats = {0.0f,      -0.0f,      kInfinity, -kInfinity,      std::nanf(""),
                               0x1p-149f, -0x1p-149f, 0x1p-126f, 0x1.fffffep127f, 0x1.01p0f,
                               0x1.03p0f};
  for (uint64_t i = 0; i < 50000; ++i) {
    for (uint32_t word : Philox(PhiloxKey(1, RandomPurpose::kTest), i)) {
      floats.push_back(std::bit_cast<float>(word));
    }
  }
  return floats;
}

// Every 1021st of all floats from -104 to 89.
std::vector<float> DenseSweep() {
  std::vector<float> x;
  for (uint64_t bits = 0; bits <= 0xffffffffu; bits += 1021) {
    const auto value = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (value >= -104.5f && value <= 89.5f) x.push_back(value);
  }
  return x;
}

std::vector<float> Apply(void (*f)(const float*, float*, int), const std::vector<float>& x) {
  std::vector<float> y(x.size());
  f(x.data(), y.data(), static_cast<int>(x.size()));
  return y;
}

::testing::AssertionResult SameBits(const std::vector<float>& x, const std::vector<float>& actual,
                                    float (*expected)(float)) {
  for (size_t i = 0; i < x.size(); ++i) {
    const float wanted = expected(x[i]);
    if (std::isnan(wanted) && std::isnan(actual[i])) continue;
    if (std::bit_cast<uint32_t>(actual[i]) != std::bit_cast<uint32_t>(wanted)) {
      return ::testing::AssertionFailure() << std::hexfloat << "at " << x[i] << ": " << actual[i]
                                           << ", the definition says " << wanted;
    }
  }
  return ::testing::AssertionSuccess();
}

TEST_P(Simd, ExpSigmoidAndSiluHaveTheBitsOfTheirDefinitions) {
  std::vector<float> x = DenseSweep();
  for (float f : ManyFloats()) x.push_back(f);
  EXPECT_TRUE(SameBits(x, Apply(table_.exp, x), kernels::Exp));
  EXPECT_TRUE(SameBits(x, Apply(table_.sigmoid, x), kernels::Sigmoid));
  EXPECT_TRUE(SameBits(x, Apply(table_.silu, x), kernels::Silu));
  const std::vector<float> s = Apply(table_.sigmoid, x);
  std::vector<float> slope(x.size());
  table_.silu_slope(x.data(), s.data(), slope.data(), static_cast<int>(x.size()));
  EXPECT_TRUE(
      SameBits(x, slope, [](float v) { return kernels::SiluSlope(v, kernels::Sigmoid(v)); }));
}

// The definition itself against the mathematical function; targets have its bits.
TEST(ExpDefinition, IsWithinItsBoundInUnitsOfTheLastPlace) {
  double most = 0.0, most_of_subnormals = 0.0;
  for (float x : DenseSweep()) {
    const double wanted = std::exp(static_cast<double>(x));
    if (wanted >= 0x1p128 || wanted < 0x1p-149) continue;
    const int exponent = std::max(std::ilogb(wanted), -126);
    const double error =
        std::ldexp(std::abs(static_cast<double>(kernels::Exp(x)) - wanted), 23 - exponent);
    double& side = wanted < 0x1p-126 ? most_of_subnormals : most;
    side = std::max(side, error);
  }
  RecordProperty("most_units", std::to_string(most));
  EXPECT_LT(most, 1.25);
  EXPECT_LT(most_of_subnormals, 1.25);
  EXPECT_GT(most, 0.5);  // the sweep sees something
}

TEST_P(Simd, ExpAtItsEnds) {
  const std::vector<float> x = {0.0f,      -1000.0f, -kInfinity,    -104.5f, 1000.0f,
                                kInfinity, 88.73f,   std::nanf(""), -103.0f, -90.0f};
  std::vector<float> y(x.size());
  table_.exp(x.data(), y.data(), static_cast<int>(x.size()));
  EXPECT_EQ(y[0], 1.0f);
  for (int i : {1, 2, 3}) EXPECT_EQ(y[i], 0.0f) << x[i];
  for (int i : {4, 5, 6}) EXPECT_EQ(y[i], kInfinity) << x[i];
  EXPECT_TRUE(std::isnan(y[7]));
  for (int i : {8, 9}) EXPECT_NEAR(y[i], std::exp(static_cast<double>(x[i])), 0x1p-149) << x[i];
}

TEST_P(Simd, NarrowingRoundsToNearestEvenAndKeepsSubnormals) {
  const std::vector<float> x = ManyFloats();
  std::vector<BFloat16> y(x.size());
  table_.narrow(x.data(), y.data(), static_cast<int>(x.size()));
  std::vector<float> back(x.size());
  table_.widen(y.data(), back.data(), static_cast<int>(x.size()));
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(y[i].bits, ToBFloat16(x[i]).bits) << x[i];
    ASSERT_EQ(std::bit_cast<uint32_t>(back[i]), std::bit_cast<uint32_t>(ToFloat(y[i])));
  }
}

TEST_P(Simd, PartialVectorsLeaveTheRestAlone) {
  for (int n = 0; n <= 40; ++n) {
    std::vector<float> x(static_cast<size_t>(n) + 1, 1.5f), y(static_cast<size_t>(n) + 32, -7.0f);
    std::vector<BFloat16> narrow(static_cast<size_t>(n) + 32, BFloat16{0x1234});
    table_.copy(x.data(), y.data(), n);
    table_.narrow(x.data(), narrow.data(), n);
    for (size_t i = 0; i < y.size(); ++i) {
      const bool inside = static_cast<int>(i) < n;
      EXPECT_EQ(y[i], inside ? 1.5f : -7.0f);
      EXPECT_EQ(narrow[i].bits, inside ? ToBFloat16(1.5f).bits : 0x1234);
    }
  }
}

TEST_P(Simd, ArithmeticIsPerLane) {
  const auto lanes = static_cast<size_t>(table_.lanes);
  std::vector<float> x(3 * lanes), y(10 * lanes);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>((i * 7) % 13) - 5.5f;
  table_.arithmetic(x.data(), y.data());
  float sum = 0, largest = -kInfinity;
  for (size_t i = 0; i < lanes; ++i) sum += x[i], largest = std::max(largest, x[i]);
  for (size_t i = 0; i < lanes; ++i) {
    const float a = x[i], b = x[lanes + i], c = x[2 * lanes + i];
    const float wanted[] = {a + b,          a - b,          a * b,       a / b, a * b + c,
                            std::max(a, b), std::min(a, b), std::abs(a), sum,   largest};
    // All but the quotient are exact: multiples of 1/4 below 2^20.
    for (size_t op = 0; op < 10; ++op) EXPECT_EQ(y[op * lanes + i], wanted[op]) << "op " << op;
  }
}

}  // namespace
}  // namespace sluice::kernels::cpu
