#include "kernels/ops/cast.h"

#include <gtest/gtest.h>

#include <bit>
#include <limits>

#include "kernels/reference/cast.h"
#include "tests/support/every_device.h"
#include "tests/support/near.h"
#include "tests/support/shapes.h"

namespace sluice::kernels {
namespace {

using testing::Same;
using testing::Tensor;

class CastTest : public testing::EveryDevice {};
INSTANTIATE_ON_EVERY_DEVICE(CastTest);

// Bit patterns around every rounding decision: all exponents (subnormals, infinities, NaN) and
// fractions on, below and above a tie, with an even and an odd upper half.
Tensor EveryKindOfFloat() {
  std::vector<uint32_t> patterns;
  for (uint32_t sign_and_exponent = 0; sign_and_exponent < 512; ++sign_and_exponent) {
    for (uint32_t fraction : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0x17fffu, 0x18000u, 0x18001u,
                              0x3fffffu, 0x400000u, 0x7f7fffu, 0x7f8000u, 0x7fffffu}) {
      patterns.push_back(sign_and_exponent << 23 | fraction);
    }
  }
  Tensor x({static_cast<int64_t>(patterns.size())});
  for (size_t i = 0; i < patterns.size(); ++i) {
    x.view().mutable_data<float>()[i] = std::bit_cast<float>(patterns[i]);
  }
  return x;
}

TEST_P(CastTest, RoundsToNearestEvenAndKeepsSubnormals) {
  const Tensor x = EveryKindOfFloat();
  const Tensor y = Tensor::Unwritten(x.shape(), DType::kBF16);
  Cast(stream(), {.from = x, .to = y});
  Wait();
  for (int64_t i = 0; i < x.num_elements(); ++i) {
    const float value = x.view().data<float>()[i];
    ASSERT_EQ(y.view().data<BFloat16>()[i].bits, ToBFloat16(value).bits)
        << std::hex << std::bit_cast<uint32_t>(value);
  }
}

TEST_P(CastTest, EveryBFloat16IsExactInFloatAndBack) {
  const Tensor x({65536}, DType::kBF16), wide({65536}), back({65536}, DType::kBF16);
  for (int i = 0; i < 65536; ++i) {
    x.view().mutable_data<BFloat16>()[i].bits = static_cast<uint16_t>(i);
  }
  Cast(stream(), {.from = x, .to = wide});
  Cast(stream(), {.from = wide, .to = back});
  Wait();
  for (int i = 0; i < 65536; ++i) {
    const uint16_t bits = static_cast<uint16_t>(i);
    ASSERT_EQ(std::bit_cast<uint32_t>(wide.view().data<float>()[i]), uint32_t{bits} << 16);
    const bool nan = (bits & 0x7fff) > 0x7f80;  // comes back quiet
    ASSERT_EQ(back.view().data<BFloat16>()[i].bits, nan ? bits | 0x40 : bits);
  }
}

TEST_P(CastTest, LengthsAndStrides) {
  for (int64_t n : testing::UglyLengths()) {
    const Tensor x = Tensor::Random({n}, DType::kF32, 1), y({n}, DType::kBF16);
    Cast(stream(), {.from = x, .to = y});
    Wait();
    ASSERT_TRUE(Same(y, x.To(DType::kBF16))) << n;
  }
  for (const auto& [rows, width] : testing::UglyMatrices()) {
    for (DType from : {DType::kF32, DType::kBF16}) {
      for (DType to : {DType::kF32, DType::kBF16}) {
        const Tensor x = Tensor::Random({rows, width}, from, 1, -1, 1, 3);
        const Tensor y = Tensor::Unwritten({rows, width}, to, 5);
        Cast(stream(), {.from = x, .to = y});
        Wait();
        ASSERT_TRUE(Same(y.To(to), x.To(to))) << rows << " x " << width;
        ASSERT_TRUE(y.PaddingIsUntouched());
      }
    }
  }
}

TEST_P(CastTest, FillSetsEveryElementAndNoMore) {
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kI32, DType::kI64, DType::kU8}) {
    for (int64_t n : testing::UglyLengths()) {
      const Tensor x({n + 2}, dtype);
      Fill(stream(), x.view().Rows(1, n), 42);
      Wait();
      EXPECT_EQ(x.At(0), 0);
      EXPECT_EQ(x.At(n + 1), 0);
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(x.At(i + 1), 42) << i << " of " << n;
    }
  }
}

TEST_P(CastTest, AddRoundsOnce) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (int64_t n : testing::UglyLengths()) {
      const Tensor a = Tensor::Random({n}, dtype, 1), b = Tensor::Random({n}, dtype, 2, -8, 8);
      const Tensor y = Tensor::Unwritten({n}, dtype), expected({n}, dtype);
      Add(stream(), {.a = a, .b = b, .y = y});
      reference::Add({.a = a, .b = b, .y = expected});
      Wait();
      ASSERT_TRUE(Same(y, expected)) << n;
      Add(stream(), {.a = a, .b = b, .y = b});
      Wait();
      ASSERT_TRUE(Same(b, expected)) << n;
    }
  }
}

}  // namespace
}  // namespace sluice::kernels
