#include "kernels/ops/reduce_rows.h"

#include <gtest/gtest.h>

#include <limits>

#include "kernels/reference/reduce_rows.h"
#include "tests/support/every_device.h"
#include "tests/support/near.h"
#include "tests/support/shapes.h"

namespace sluice::kernels {
namespace {

using testing::Same;
using testing::Tensor;

class ReduceRowsTest : public testing::EveryDevice {};
INSTANTIATE_ON_EVERY_DEVICE(ReduceRowsTest);

// Large and small by turns: in FP32 and FP64 another order of additions gives other bits.
Tensor RowsOfUnlikeSize(int64_t num_rows, int64_t n, DType dtype) {
  const bool floats = dtype == DType::kF32 || dtype == DType::kF64;
  const Tensor rows({num_rows, n}, dtype);
  const Tensor random = floats ? Tensor::Random({num_rows * n}, DType::kF32, 1)
                               : Tensor::RandomIntegers({num_rows * n}, DType::kI32, 1, -50, 50);
  for (int64_t i = 0; i < num_rows * n; ++i) {
    const double scale = floats && i / n % 2 == 0 ? 1e5 / 3 : 1;
    rows.SetAt(i, random.At(i) * scale);
  }
  return rows;
}

TEST_P(ReduceRowsTest, AddsInTheOrderOfTheRows) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kI32, DType::kI64}) {
    for (const Reduction reduction : {Reduction::kSum, Reduction::kMax, Reduction::kMin}) {
      for (const int64_t num_rows : {1, 2, 3, 8}) {
        for (const int64_t n : {0, 1, 255, 256, 257, 4099}) {
          const Tensor rows = RowsOfUnlikeSize(num_rows, n, dtype);
          const Tensor y = Tensor::Unwritten({n}, dtype), expected({n}, dtype);
          ReduceRows(stream(), {.rows = rows, .y = y, .reduction = reduction});
          reference::ReduceRows({.rows = rows, .y = expected, .reduction = reduction});
          Wait();
          ASSERT_TRUE(Same(y, expected)) << num_rows << " x " << n;
        }
      }
    }
  }
}

TEST_P(ReduceRowsTest, TheResultMayBeOneOfTheRows) {
  constexpr int64_t kRows = 3, kWidth = 1000;
  for (int64_t place = 0; place < kRows; ++place) {
    const Tensor rows = RowsOfUnlikeSize(kRows, kWidth, DType::kF32);
    const Tensor expected({kWidth});
    reference::ReduceRows({.rows = rows, .y = expected});
    const TensorView y = rows.view().Reshape({kRows * kWidth}).Rows(place * kWidth, kWidth);
    ReduceRows(stream(), {.rows = rows, .y = y});
    Wait();
    for (int64_t i = 0; i < kWidth; ++i) ASSERT_EQ(y.data<float>()[i], expected.At(i)) << i;
  }
}

TEST_P(ReduceRowsTest, NothingHidesANan) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const Reduction reduction : {Reduction::kSum, Reduction::kMax, Reduction::kMin}) {
    const Tensor rows = Tensor::Of({nan, 1, 1, 1, nan, 1, 1, 1, nan}, DType::kF32, {3, 3});
    const Tensor y({3});
    ReduceRows(stream(), {.rows = rows, .y = y, .reduction = reduction});
    Wait();
    for (int64_t i = 0; i < 3; ++i) EXPECT_NE(y.At(i), y.At(i)) << i;
  }
}

}  // namespace
}  // namespace sluice::kernels
