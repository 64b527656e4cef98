#include "kernels/ops/e5m6.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/core/e5m6.h"
#include "kernels/reference/e5m6.h"
#include "tests/support/every_device.h"
#include "tests/support/near.h"

namespace sluice::kernels {
namespace {

using testing::Same;
using testing::Tensor;

class E5m6Test : public testing::EveryDevice {};
INSTANTIATE_ON_EVERY_DEVICE(E5m6Test);

// Numbers of very different size: every third is scaled by 2^-12, every fifth by 2^-40.
Tensor Spread(int64_t rows, int64_t columns, DType dtype, int64_t padding) {
  const Tensor x = Tensor::Random({rows, columns}, dtype, 1, -300, 300, padding);
  for (int64_t i = 0; i < rows * columns; ++i) {
    const int exponent = i % 3 == 0 ? -12 : i % 5 == 0 ? -40 : 0;
    x.SetAt(i, std::ldexp(x.At(i), exponent));
  }
  return x;
}

TEST_P(E5m6Test, HasTheBytesOfTheReference) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t columns : {2, 16, 126, 128, 130, 576}) {
      for (const int64_t rows : {0, 1, 7}) {
        const Tensor x = Spread(rows, columns, dtype, 3);
        const Shape packed = {rows, E5m6RowBytes(columns)};
        const Tensor actual = Tensor::Unwritten(packed, DType::kU8, 5),
                     expected(packed, DType::kU8);
        const Tensor y = Tensor::Unwritten({rows, columns}, dtype, 1),
                     wanted({rows, columns}, dtype);
        PackE5m6Rows(stream(), {.x = x, .packed = actual});
        UnpackE5m6Rows(stream(), {.x = y, .packed = actual});
        Wait();
        reference::PackE5m6Rows({.x = x, .packed = expected});
        reference::UnpackE5m6Rows({.x = wanted, .packed = expected});
        ASSERT_TRUE(Same(actual, expected)) << rows << " x " << columns;
        ASSERT_TRUE(Same(y, wanted)) << rows << " x " << columns;
        ASSERT_TRUE(y.PaddingIsUntouched() && x.PaddingIsUntouched());
      }
    }
  }
}

// Half a unit of the sixth fraction bit, where the code is normal; half of 2^-20 below.
TEST_P(E5m6Test, IsOffByAtMost2ToTheMinus7) {
  const Tensor x = Spread(5, 256, DType::kF32, 0), y({5, 256});
  const Tensor packed = Tensor::Unwritten({5, E5m6RowBytes(256)}, DType::kU8);
  PackE5m6Rows(stream(), {.x = x, .packed = packed});
  UnpackE5m6Rows(stream(), {.x = y, .packed = packed});
  Wait();
  for (int64_t tile = 0; tile < 10; ++tile) {
    double amax = 0;
    for (int64_t i = 0; i < 128; ++i) amax = std::max(amax, std::abs(x.At(tile * 128 + i)));
    for (int64_t i = tile * 128; i < tile * 128 + 128; ++i) {
      // The scale is below 2 amax / 65024.
      const double subnormal = 0x1p-21 * 2 * amax / 65024;
      ASSERT_LE(std::abs(y.At(i) - x.At(i)), std::max(std::abs(x.At(i)) * 0x1p-7, subnormal)) << i;
    }
  }
}

TEST_P(E5m6Test, ZeroTinyAndNonFiniteTiles) {
  const double infinity = std::numeric_limits<double>::infinity();
  const Tensor x({5, 128});
  x.SetAt(0, -0.0);
  x.SetAt(128, 0x1p-149);
  x.SetAt(2 * 128, 3.3e38);
  x.SetAt(3 * 128, -std::nan(""));
  x.SetAt(3 * 128 + 1, 1.0);
  x.SetAt(4 * 128, infinity);
  x.SetAt(4 * 128 + 2, -infinity);
  x.SetAt(4 * 128 + 1, 1.0);
  const Shape shape = {5, E5m6RowBytes(128)};
  const Tensor packed = Tensor::Unwritten(shape, DType::kU8), expected(shape, DType::kU8);
  const Tensor y = Tensor::Unwritten({5, 128});
  PackE5m6Rows(stream(), {.x = x, .packed = packed});
  UnpackE5m6Rows(stream(), {.x = y, .packed = packed});
  Wait();
  reference::PackE5m6Rows({.x = x, .packed = expected});
  EXPECT_TRUE(Same(packed, expected));
  EXPECT_TRUE(y.At(0) == 0 && std::signbit(y.At(0)));
  EXPECT_EQ(packed.At(192), 127);  // a tile of zeros: scale 1
  EXPECT_EQ(y.At(128), 0);
  EXPECT_NEAR(y.At(2 * 128), 3.3e38, 3.3e38 * 0x1p-7);
  EXPECT_TRUE(std::isnan(y.At(3 * 128)));
  EXPECT_EQ(y.At(3 * 128 + 1), 1.0);
  for (int64_t i = 0; i < 128; ++i) ASSERT_TRUE(std::isnan(y.At(4 * 128 + i))) << i;
}

// What docs/fp8.md says of a row: 3 bytes a pair, a byte a tile, zeros.
TEST_P(E5m6Test, RowsHaveTheBytesOfTheDocument) {
  EXPECT_EQ(E5m6RowBytes(16384), 24704);
  const Tensor x({1, 16}), packed = Tensor::Unwritten({1, E5m6RowBytes(16)}, DType::kU8);
  x.SetAt(0, 3.0);
  x.SetAt(1, -1.1);
  PackE5m6Rows(stream(), {.x = x, .packed = packed});
  Wait();
  // amax 3: scale 2^-14; 3 * 2^14 is 1.5 * 2^15, code 30 << 6 | 32 = 0x7a0; -1.1 * 2^14 rounds to
  // -1.09375 * 2^14, code 0x800 | 29 << 6 | 6 = 0xf46.
  const int wanted[] = {0xa0, 0x67, 0xf4};
  for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(packed.At(i), wanted[i]) << i;
  EXPECT_EQ(packed.At(24), 127 - 14);
  for (int64_t i = 25; i < 32; ++i) EXPECT_EQ(packed.At(i), 0);
}

TEST(E5m6, EveryCodeComesBack) {
  for (uint32_t code = 0; code < 0x1000; ++code) {
    const float value = FromE5M6(code);
    if ((code & 0x7c0u) == 0x7c0u) continue;  // infinity and NaN
    EXPECT_EQ(ToE5M6(value), code);
  }
  EXPECT_TRUE(std::isnan(FromE5M6(0x7e0)));
  EXPECT_EQ(ToE5M6(65024.0f * 1.1f), 0x7bfu);  // saturates
  EXPECT_EQ(ToE5M6(-std::nanf("")), 0xfe0u);
}

// A number between two codes goes to the nearer one, in the middle to the even one.
TEST(E5m6, RoundsToNearestEven) {
  for (uint32_t code = 0; code < 0x7bf; ++code) {
    const float low = FromE5M6(code), high = FromE5M6(code + 1), middle = (low + high) / 2;
    EXPECT_EQ(ToE5M6(middle), code % 2 == 0 ? code : code + 1);
    EXPECT_EQ(ToE5M6(std::nextafter(middle, low)), code);
    EXPECT_EQ(ToE5M6(std::nextafter(middle, high)), code + 1);
  }
}

}  // namespace
}  // namespace sluice::kernels
