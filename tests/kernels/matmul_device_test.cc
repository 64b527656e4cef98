// The matrix products on every device, against the reference. matmul_test.cc and its neighbours say
// more about the CPU's.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/ops/matmul.h"
#include "kernels/reference/matmul.h"
#include "tests/support/every_device.h"
#include "tests/support/near.h"
#include "tests/support/tensor.h"

namespace sluice::kernels {
namespace {

using testing::Near;
using testing::Same;
using testing::Tensor;

class MatmulDeviceTest : public testing::EveryDevice {
 protected:
  // Packed with its storage.
  struct Packed {
    Tensor storage;
    PackedMatrix matrix;
  };
  Packed Pack(const Tensor& b, bool transpose) { return Pack(b, transpose, b.dtype()); }
  Packed Pack(const Tensor& b, bool transpose, DType dtype) {
    const int rank = b.shape().rank();
    const int64_t rows = b.shape()[rank - 2], columns = b.shape()[rank - 1];
    Packed packed;
    packed.matrix = {.num_matrices = rank == 3 ? b.shape()[0] : 1,
                     .k = transpose ? columns : rows,
                     .n = transpose ? rows : columns,
                     .dtype = dtype};
    const PackedMatrix& m = packed.matrix;
    const size_t bytes = PackedBytes(m.num_matrices, m.k, m.n, m.dtype);
    packed.storage = Tensor::Unwritten({static_cast<int64_t>(bytes)}, DType::kU8);
    packed.matrix.storage = packed.storage;
    PackMatrix(stream(), {.b = b, .transpose = transpose, .packed = packed.matrix});
    return packed;
  }
};
INSTANTIATE_ON_EVERY_DEVICE(MatmulDeviceTest);

// Rows, columns, K: nothing, one, one beside a tile of 64, one beside a step of 16 and 32.
// The last two are as wgmma wants them.
constexpr int64_t kShapes[][3] = {{0, 5, 3},      {3, 4, 0},    {1, 1, 1},
                                  {5, 65, 17},    {64, 64, 32}, {66, 33, 31},
                                  {130, 70, 129}, {8, 136, 72}, {136, 72, 128}};

// Small integers are exact in any order of summation: no wrong, missing or doubled product can
// hide.
TEST_P(MatmulDeviceTest, IsExactOnSmallIntegers) {
  for (const auto& [m, n, k] : kShapes) {
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      for (int variant = 0; variant < 8; ++variant) {
        const bool ta = (variant & 1) != 0, tb = (variant & 2) != 0, add = (variant & 4) != 0;
        if (IsTooMuchHere(static_cast<double>(m * n * k) * (variant % 3 == 0 ? 1 : 4))) continue;
        const Tensor a = Tensor::RandomIntegers(ta ? Shape{k, m} : Shape{m, k}, dtype, 1, -8, 8);
        const Tensor b = Tensor::RandomIntegers(tb ? Shape{n, k} : Shape{k, n}, dtype, 2, -8, 8);
        const Tensor c = Tensor::RandomIntegers({m, n}, DType::kF32, 3, -8, 8);
        const Tensor expected = c.Clone(), packed_c = c.Clone();
        Matmul(stream(),
               {.a = a, .b = b, .c = c, .transpose_a = ta, .transpose_b = tb, .accumulate = add});
        Wait();
        reference::Matmul({.a = a,
                           .b = b,
                           .c = expected,
                           .transpose_a = ta,
                           .transpose_b = tb,
                           .accumulate = add});
        ASSERT_TRUE(Same(c, expected)) << m << " " << n << " " << k << " variant " << variant;
        if (ta) continue;
        const Tensor source = add ? b.To(DType::kF32) : b;  // a stream with a thread reads it later
        const Packed packed = Pack(source, tb, dtype);
        PackedMatmul(stream(), {.a = a, .b = packed.matrix, .c = packed_c, .accumulate = add});
        Wait();
        ASSERT_TRUE(Same(packed_c, expected))
            << m << " " << n << " " << k << " variant " << variant;
      }
    }
  }
}

// A sum of K products is off by at most (K + 1) half units of sum |a||b|; one more for the store.
// All values are at most 1 in magnitude, so that sum is at most K.
TEST_P(MatmulDeviceTest, RoundsWithinItsBound) {
  const int64_t m = 37, n = 41, k = 203;
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (DType result : {DType::kF32, dtype}) {
      const Tensor a = Tensor::Random({m, k}, dtype, 1, -1, 1, 3);
      const Tensor b = Tensor::Random({n, k}, dtype, 2, -1, 1, 1);
      const Tensor c = Tensor::Unwritten({m, n}, result, 2), expected({m, n}, DType::kF32);
      Matmul(stream(), {.a = a, .b = b, .c = c, .transpose_b = true});
      Wait();
      reference::Matmul({.a = a, .b = b, .c = expected, .transpose_b = true});
      ASSERT_TRUE(Near(c, expected,
                       {.absolute = static_cast<double>(k * (k + 3)) * testing::kF32Rounding,
                        .relative = testing::OneUlp(result)}));
      ASSERT_TRUE(c.PaddingIsUntouched());
    }
  }
}

// A row's bits do not depend on which rows and columns there are besides.
TEST_P(MatmulDeviceTest, RowDoesNotDependOnTheBatch) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor a = Tensor::Random({70, 50}, dtype, 1), b = Tensor::Random({50, 75}, dtype, 2);
    const Tensor whole = Tensor::Unwritten({70, 75}), part = Tensor::Unwritten({3, 75});
    Matmul(stream(), {.a = a, .b = b, .c = whole});
    Matmul(stream(), {.a = a.view().Rows(65, 3), .b = b, .c = part});
    Wait();
    for (int64_t i = 0; i < 3 * 75; ++i) ASSERT_EQ(part.At(i), whole.At(65 * 75 + i));
  }
}

// No token anywhere, none at either end, one, more than a tile.
TEST_P(MatmulDeviceTest, GroupedProductsAreExactOnSmallIntegers) {
  const std::vector<int64_t> few = {0, 13, 0, 1, 0}, many = {70, 64, 3};
  for (const auto& [counts, in, out] :
       std::vector<std::tuple<std::vector<int64_t>, int, int>>{{{0, 0}, 37, 45},
                                                               {few, 37, 45},
                                                               {many, 37, 45},
                                                               {{1, 130}, 37, 45},
                                                               {few, 40, 48},
                                                               {many, 72, 136}}) {
    const auto experts = static_cast<int64_t>(counts.size());
    const Tensor offsets({experts + 1}, DType::kI32);
    int64_t tokens = 0;
    for (int64_t e = 0; e < experts; ++e) {
      tokens += counts[static_cast<size_t>(e)];
      offsets.SetAt(e + 1, static_cast<double>(tokens));
    }
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      if (IsTooMuchHere(static_cast<double>(2 * tokens * in * out))) continue;
      const Tensor x = Tensor::RandomIntegers({tokens, in}, dtype, 1, -8, 8);
      const Tensor w = Tensor::RandomIntegers({experts, out, in}, dtype, 2, -8, 8);
      const Tensor dy = Tensor::RandomIntegers({tokens, out}, dtype, 3, -8, 8);
      const Tensor y = Tensor::Unwritten({tokens, out}), expected({tokens, out});
      const Packed packed = Pack(w, true);
      GroupedMatmul(stream(), {.x = x, .w = packed.matrix, .offsets = offsets, .y = y});
      const Tensor dw = Tensor::RandomIntegers({experts, out, in}, DType::kF32, 4, -8, 8);
      const Tensor expected_dw = dw.Clone();
      GroupedWeightGradient(stream(), {.dy = dy, .x = x, .offsets = offsets, .dw = dw});
      Wait();
      reference::GroupedMatmul({x, w, offsets, expected, true});
      reference::GroupedWeightGradient({dy, x, offsets, expected_dw});
      ASSERT_TRUE(Same(y, expected)) << tokens;
      ASSERT_TRUE(Same(dw, expected_dw)) << tokens;
    }
  }
}

}  // namespace
}  // namespace sluice::kernels
