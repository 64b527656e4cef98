// Matmul and PackedMatmul of every target against the reference.
#include "kernels/ops/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

#include "kernels/cpu/scratch.h"
#include "kernels/reference/matmul.h"
#include "tests/kernels/matmul_testing.h"
#include "tests/support/near.h"
#include "tests/support/tensor.h"

namespace sluice::kernels {
namespace {

using testing::Bound;
using testing::Near;
using testing::Same;
using testing::Tensor;

struct Case {
  int64_t m, n, k;
  DType dtype = DType::kF32, result = DType::kF32;
  bool transpose_a = false, transpose_b = false, accumulate = false;
  int64_t padding = 0;  // elements between rows
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.m << "x" << c.n << "x" << c.k << " " << NameOf(c.dtype).data() << " to "
             << NameOf(c.result).data() << (c.transpose_a ? " TA" : "")
             << (c.transpose_b ? " TB" : "") << (c.accumulate ? " +=" : "") << " padding "
             << c.padding;
}

// One off and one past every tile (4, 6, 12 rows; 16, 32 columns) and block of K (512 floats, 1024
// BF16), primes, and nothing at all.
const int64_t kShapes[][3] = {{0, 5, 3},      {3, 0, 4},     {4, 3, 0},     {1, 1, 1},
                              {1, 33, 7},     {2, 17, 2},    {12, 32, 16},  {13, 31, 5},
                              {25, 65, 63},   {6, 16, 1},    {64, 70, 129}, {7, 97, 513},
                              {11, 40, 1025}, {5, 33, 2100}, {61, 290, 67}, {209, 34, 9}};

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const auto& [m, n, k] : kShapes) {
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      for (int transposes = 0; transposes < 4; ++transposes) {
        Case c = {.m = m, .n = n, .k = k, .dtype = dtype};
        c.transpose_a = (transposes & 1) != 0;
        c.transpose_b = (transposes & 2) != 0;
        cases.push_back(c);
        c.padding = 3;
        c.accumulate = true;
        cases.push_back(c);
        if (dtype == DType::kBF16) {
          c.accumulate = false;
          c.result = DType::kBF16;
          cases.push_back(c);
        }
      }
    }
  }
  return cases;
}

struct Operands {
  Tensor a, b, c;
};

Shape ShapeOfA(const Case& c) { return c.transpose_a ? Shape{c.k, c.m} : Shape{c.m, c.k}; }
Shape ShapeOfB(const Case& c) { return c.transpose_b ? Shape{c.n, c.k} : Shape{c.k, c.n}; }

Operands RandomOperands(const Case& c) {
  Operands o;
  o.a = Tensor::Random(ShapeOfA(c), c.dtype, 1, -1, 1, c.padding);
  o.b = Tensor::Random(ShapeOfB(c), c.dtype, 2, -1, 1, c.padding);
  o.c = Tensor::Random({c.m, c.n}, c.result, 3, -1, 1, c.padding);
  return o;
}

MatmulArgs ArgsOf(const Case& c, const Operands& o, const Tensor& result) {
  return {.a = o.a,
          .b = o.b,
          .c = result,
          .transpose_a = c.transpose_a,
          .transpose_b = c.transpose_b,
          .accumulate = c.accumulate};
}

// sum_k |a| |b|, plus |c| when accumulating: what rounding errors are measured by.
Tensor MagnitudeOf(const Case& c, const Operands& o) {
  Operands absolute = {o.a.Clone(), o.b.Clone(), {}};
  for (const Tensor& t : {absolute.a, absolute.b}) {
    for (int64_t i = 0; i < t.num_elements(); ++i) t.SetAt(i, std::abs(t.At(i)));
  }
  Tensor magnitude({c.m, c.n}, DType::kF32);
  Case plain = c;
  plain.accumulate = false;
  reference::Matmul(ArgsOf(plain, absolute, magnitude));
  for (int64_t i = 0; c.accumulate && i < magnitude.num_elements(); ++i) {
    magnitude.SetAt(i, magnitude.At(i) + std::abs(o.c.At(i)));
  }
  return magnitude;
}

// An FP32 sum of K products, in any order, with or without fused multiply-adds, is off by at most
// (K + 1) half units in the last place of sum |a||b| to first order; one more rounding each for
// adding c and for storing, the latter to BF16 relative to the result (2^-8, doubled because the
// reference is rounded too). BF16 dot instructions flush subnormals: 2^-126 a product.
Bound BoundOf(const Case& c, const Tensor& magnitude) {
  Bound bound;
  bound.absolute = static_cast<double>(c.k + 1) * 0x1p-126;
  bound.magnitude = &magnitude;
  bound.magnitude_factor = static_cast<double>(c.k + 3) * testing::kF32Rounding;
  if (c.result == DType::kBF16) bound.relative = 0x1p-7;
  return bound;
}

TEST(Matmul, AgreesWithTheReference) {
  TestDevice device(2);
  for (const Case& c : AllCases()) {
    std::ostringstream trace;
    trace << c;
    SCOPED_TRACE(trace.str());
    const Operands o = RandomOperands(c);
    const Tensor expected = o.c.Clone(), magnitude = MagnitudeOf(c, o);
    reference::Matmul(ArgsOf(c, o, expected));
    ForEachTarget([&] {
      const Tensor actual = o.c.Clone();
      Matmul(device.stream(), ArgsOf(c, o, actual));
      EXPECT_TRUE(Near(actual, expected, BoundOf(c, magnitude)));
      EXPECT_TRUE(actual.PaddingIsUntouched());
      if (c.transpose_a) return;
      const Tensor packed_actual = o.c.Clone();
      const TestPacked packed(device.stream(), o.b, c.transpose_b, c.dtype);
      PackedMatmul(device.stream(),
                   {.a = o.a, .b = packed.matrix, .c = packed_actual, .accumulate = c.accumulate});
      EXPECT_TRUE(Same(packed_actual, actual)) << "packed against unpacked";
      EXPECT_TRUE(packed_actual.PaddingIsUntouched());
    });
    if (HasFailure()) return;
  }
}

// Integers up to 8 times integers up to 8, 2100 of them, stay below 2^24: every partial sum in any
// order is exact, so a wrong, missing or doubled product cannot hide in a bound.
TEST(Matmul, IsExactOnSmallIntegers) {
  TestDevice device(2);
  for (Case c : AllCases()) {
    c.result = DType::kF32;
    std::ostringstream trace;
    trace << c;
    SCOPED_TRACE(trace.str());
    Operands o;
    o.a = Tensor::RandomIntegers(ShapeOfA(c), c.dtype, 4, -8, 8);
    o.b = Tensor::RandomIntegers(ShapeOfB(c), c.dtype, 5, -8, 8);
    o.c = Tensor::RandomIntegers({c.m, c.n}, DType::kF32, 6, -8, 8);
    const Tensor expected = o.c.Clone();
    reference::Matmul(ArgsOf(c, o, expected));
    ForEachTarget([&] {
      const Tensor actual = o.c.Clone();
      Matmul(device.stream(), ArgsOf(c, o, actual));
      EXPECT_TRUE(Near(actual, expected, {}));
    });
    if (HasFailure()) return;
  }
}

TEST(Matmul, PackingF32AsBF16RoundsLikeACast) {
  TestDevice device(2);
  for (bool transpose : {false, true}) {
    for (int64_t k : {1, 2, 31, 63, 66}) {
      const int64_t n = 71;
      const Tensor b =
          Tensor::Random(transpose ? Shape{n, k} : Shape{k, n}, DType::kF32, 7, -2, 2, 5);
      ForEachTarget([&] {
        const TestPacked direct(device.stream(), b, transpose, DType::kBF16);
        const TestPacked cast(device.stream(), b.To(DType::kBF16), transpose, DType::kBF16);
        EXPECT_TRUE(Same(direct.storage, cast.storage)) << "k " << k << " transpose " << transpose;
      });
    }
  }
}

TEST(Matmul, PackedBytesAreTheSameOnEveryTarget) {
  TestDevice device(2);
  for (bool transpose : {false, true}) {
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      const Tensor b = Tensor::Random({3, 37, 45}, dtype, 8);
      Tensor first;
      ForEachTarget([&] {
        const TestPacked packed(device.stream(), b, transpose, dtype);
        if (first.shape().rank() == 0) first = packed.storage;
        EXPECT_TRUE(Same(packed.storage, first));
      });
    }
  }
}

TEST(Matmul, NotANumberStaysInItsRowAndColumn) {
  TestDevice device;
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor a = Tensor::Random({14, 19}, dtype, 9), b = Tensor::Random({19, 35}, dtype, 10);
    a.SetAt(13 * 19 + 18, std::nan(""));
    b.SetAt(18 * 35 + 34, INFINITY);
    ForEachTarget([&] {
      const Tensor c({14, 35}, DType::kF32);
      Matmul(device.stream(), {.a = a, .b = b, .c = c});
      for (int64_t i = 0; i < 14; ++i) {
        for (int64_t j = 0; j < 35; ++j) {
          EXPECT_EQ(std::isfinite(c.At(i * 35 + j)), i != 13 && j != 34) << i << ", " << j;
        }
      }
    });
  }
}

// The pair that an odd K leaves half empty must not see what an earlier product left in scratch
// memory.
TEST(Matmul, OddDepthForgetsEarlierOperands) {
  TestDevice device;
  for (bool transpose : {false, true}) {
    for (int64_t k : {1, 7, 1031}) {
      const auto shape = [&](int64_t depth) {
        return transpose ? Shape{depth, 13} : Shape{13, depth};
      };
      const Tensor poison(shape(k + 1), DType::kBF16),
          a = Tensor::Random(shape(k), DType::kBF16, 11);
      for (int64_t i = 0; i < poison.num_elements(); ++i) poison.SetAt(i, std::nan(""));
      const Tensor b = Tensor::Random({k + 1, 40}, DType::kBF16, 12);
      ForEachTarget([&] {
        const Tensor c({13, 40});
        Matmul(device.stream(), {.a = poison, .b = b, .c = c, .transpose_a = transpose});
        EXPECT_TRUE(std::isnan(c.At(0)));
        Matmul(device.stream(),
               {.a = a, .b = b.view().Rows(0, k), .c = c, .transpose_a = transpose});
        for (int64_t i = 0; i < c.num_elements(); ++i) ASSERT_TRUE(std::isfinite(c.At(i))) << k;
      });
    }
  }
}

// Working memory has a high-water mark: the same shapes again need no more.
TEST(Matmul, ScratchStopsGrowing) {
  TestDevice device;
  const auto run_all = [&] {
    for (const Case& c : AllCases()) {
      const Operands o = RandomOperands(c);
      Matmul(device.stream(), ArgsOf(c, o, o.c));
    }
  };
  run_all();
  const int64_t held = cpu::Scratch::total_bytes();
  run_all();
  EXPECT_GT(held, 0);
  EXPECT_EQ(cpu::Scratch::total_bytes(), held);
}

}  // namespace
}  // namespace sluice::kernels
