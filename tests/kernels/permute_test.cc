#include "kernels/ops/permute.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/reference/permute.h"
#include "tests/support/every_device.h"
#include "tests/support/finite_difference.h"
#include "tests/support/near.h"
#include "tests/support/shapes.h"

namespace sluice::kernels {
namespace {

using testing::InnerProduct;
using testing::kF32Rounding;
using testing::Near;
using testing::OneUlp;
using testing::PaddingOf;
using testing::Same;
using testing::Tensor;

class PermuteTest : public testing::EveryDevice {};
INSTANTIATE_ON_EVERY_DEVICE(PermuteTest);

// Every row once: [tokens, top] in some order of expert.
Tensor SomePermutation(int64_t tokens, int64_t top) {
  Tensor row_of({tokens, top}, DType::kI32);
  const int64_t n = tokens * top;
  // Multiplying by a number prime to n permutes [0, n).
  int64_t factor = n / 2 + 1;
  while (std::gcd(factor, std::max<int64_t>(n, 1)) != 1) ++factor;
  for (int64_t i = 0; i < n; ++i) row_of.SetAt(i, static_cast<double>(i * factor % n));
  return row_of;
}

TEST_P(PermuteTest, GatherCopiesRows) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [rows, width] : testing::UglyMatrices()) {
      const Tensor x = Tensor::Random({9, width}, dtype, 1, -1, 1, PaddingOf(width));
      const Tensor index = Tensor::RandomIntegers({rows}, DType::kI32, 2, 0, 8);
      const Tensor y = Tensor::Unwritten({rows, width}, dtype, PaddingOf(width, 2));
      const Tensor expected({rows, width}, dtype);
      GatherRows(stream(), {.x = x, .index = index, .y = y});
      Wait();
      reference::GatherRows({.x = x, .index = index, .y = expected});
      ASSERT_TRUE(Same(y.To(dtype), expected));
      ASSERT_TRUE(y.PaddingIsUntouched());
    }
  }
}

// A sum of top + 1 terms in order: (top + 1) u relative to the sum of absolute values.
TEST_P(PermuteTest, CombineEqualsReference) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [tokens, width] : testing::UglyMatrices()) {
      for (int64_t top : {1, 3, 8}) {
        const Tensor rows =
            Tensor::Random({tokens * top, width}, dtype, 1, -1, 1, PaddingOf(width));
        const Tensor row_of = SomePermutation(tokens, top);
        const Tensor weights = Tensor::Random({tokens, top}, DType::kF32, 2, 0, 1);
        const Tensor base = Tensor::Random({tokens, width}, dtype, 3, -1, 1, PaddingOf(width, 1));
        for (int variant = 0; variant < 4; ++variant) {
          CombineRowsArgs args = {.rows = rows, .row_of = row_of};
          if ((variant & 1) != 0) args.weights = weights;
          if ((variant & 2) != 0) args.base = base;
          const Tensor y = Tensor::Unwritten({tokens, width}, dtype, PaddingOf(width, 2)),
                       expected({tokens, width}, DType::kF64);
          args.y = y;
          CombineRows(stream(), args);
          Wait();
          args.y = expected;
          reference::CombineRows(args);
          const double terms = static_cast<double>(top) + 1;  // each at most 1
          ASSERT_TRUE(Near(y, expected,
                           {.absolute = terms * terms * kF32Rounding, .relative = OneUlp(dtype)}))
              << tokens << " x " << width << " top " << top << " variant " << variant;
          ASSERT_TRUE(y.PaddingIsUntouched());
          if ((variant & 2) == 0) continue;
          const Tensor in_place = base.Clone();
          args.base = in_place, args.y = in_place;
          CombineRows(stream(), args);
          Wait();
          ASSERT_TRUE(Same(in_place.To(dtype), y.To(dtype)));
        }
      }
    }
  }
}

// One fused multiply-add a term, in order, and one rounding at the end: on every backend.
TEST_P(PermuteTest, CombineHasTheBitsOfItsDefinition) {
  const int64_t tokens = 7, top = 8, width = 37;
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor rows = Tensor::Random({tokens * top, width}, dtype, 1, -1, 1);
    const Tensor row_of = SomePermutation(tokens, top);
    const Tensor weights = Tensor::Random({tokens, top}, DType::kF32, 2, 0, 1);
    const Tensor base = Tensor::Random({tokens, width}, dtype, 3, -1, 1);
    const Tensor y = Tensor::Unwritten({tokens, width}, dtype), expected({tokens, width}, dtype);
    CombineRows(stream(),
                {.rows = rows, .row_of = row_of, .weights = weights, .base = base, .y = y});
    Wait();
    for (int64_t i = 0; i < tokens * width; ++i) {
      const int64_t t = i / width;
      auto sum = static_cast<float>(base.At(i));
      for (int64_t k = t * top; k < (t + 1) * top; ++k) {
        const auto row = static_cast<int64_t>(row_of.At(k));
        sum = std::fmaf(static_cast<float>(weights.At(k)),
                        static_cast<float>(rows.At(row * width + i % width)), sum);
      }
      expected.SetAt(i, static_cast<double>(sum));
    }
    EXPECT_TRUE(Same(y, expected));
  }
}

TEST_P(PermuteTest, CombineBackwardEqualsReference) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [tokens, width] : testing::UglyMatrices()) {
      for (int64_t top : {1, 3}) {
        const Tensor dy = Tensor::Random({tokens, width}, dtype, 1, -1, 1, PaddingOf(width, 1));
        const Tensor rows =
            Tensor::Random({tokens * top, width}, dtype, 2, -1, 1, PaddingOf(width));
        const Tensor row_of = SomePermutation(tokens, top);
        const Tensor weights = Tensor::Random({tokens, top}, DType::kF32, 3, 0, 1);
        const Tensor drows = Tensor::Unwritten({tokens * top, width}, dtype, PaddingOf(width, 2));
        const Tensor expected_drows({tokens * top, width}, dtype);
        const Tensor dweights = Tensor::Unwritten({tokens, top}),
                     expected_dweights({tokens, top}, DType::kF64);
        CombineRowsBackwardArgs args = {.dy = dy,
                                        .rows = rows,
                                        .row_of = row_of,
                                        .weights = weights,
                                        .drows = drows,
                                        .dweights = dweights};
        CombineRowsBackward(stream(), args);
        Wait();
        args.drows = expected_drows, args.dweights = expected_dweights;
        reference::CombineRowsBackward(args);
        ASSERT_TRUE(Near(drows, expected_drows, {.relative = OneUlp(dtype)}));
        ASSERT_TRUE(drows.PaddingIsUntouched());
        // A dot product of `width` terms of at most 1.
        const double n = static_cast<double>(width);
        ASSERT_TRUE(Near(dweights, expected_dweights, {.absolute = n * (n + 1) * kF32Rounding}));
        args.drows = rows;
        args.dweights = dweights;
        CombineRowsBackward(stream(), args);
        Wait();
        ASSERT_TRUE(Same(rows.To(dtype), drows.To(dtype))) << "in place";
      }
    }
  }
}

// <gather x, r> = <x, combine r>: a gather that copies each token to its K places and the combine
// with weights of 1 are adjoint; exact with small integers.
TEST_P(PermuteTest, GatherAndCombineAreAdjoint) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const int64_t tokens = 37, top = 4, width = 19;
    const Tensor row_of = SomePermutation(tokens, top);
    const Tensor token_of({tokens * top}, DType::kI32);
    for (int64_t i = 0; i < tokens * top; ++i) {
      token_of.SetAt(static_cast<int64_t>(row_of.At(i)), static_cast<double>(i / top));
    }
    const Tensor x = Tensor::RandomIntegers({tokens, width}, dtype, 1, -3, 3);
    const Tensor r = Tensor::RandomIntegers({tokens * top, width}, dtype, 2, -3, 3);
    const Tensor gathered({tokens * top, width}, dtype), combined({tokens, width}, dtype);
    GatherRows(stream(), {.x = x, .index = token_of, .y = gathered});
    CombineRows(stream(), {.rows = r, .row_of = row_of, .y = combined});
    Wait();
    EXPECT_EQ(InnerProduct(gathered, r), InnerProduct(x, combined));
  }
}

TEST_P(PermuteTest, WeightedCombineAndItsBackwardAreAdjoint) {
  const int64_t tokens = 23, top = 3, width = 40;
  const Tensor row_of = SomePermutation(tokens, top);
  const Tensor rows = Tensor::RandomIntegers({tokens * top, width}, DType::kF32, 1, -3, 3);
  const Tensor weights = Tensor::RandomIntegers({tokens, top}, DType::kF32, 2, 0, 3);
  const Tensor dy = Tensor::RandomIntegers({tokens, width}, DType::kF32, 3, -3, 3);
  const Tensor y({tokens, width}), drows(rows.shape()), dweights({tokens, top});
  CombineRows(stream(), {.rows = rows, .row_of = row_of, .weights = weights, .y = y});
  CombineRowsBackward(stream(), {.dy = dy,
                                 .rows = rows,
                                 .row_of = row_of,
                                 .weights = weights,
                                 .drows = drows,
                                 .dweights = dweights});
  Wait();
  EXPECT_EQ(InnerProduct(y, dy), InnerProduct(rows, drows));
  EXPECT_EQ(InnerProduct(y, dy), InnerProduct(weights, dweights));
}

TEST(PermuteReferenceTest, GradientsAreFiniteDifferences) {
  const int64_t tokens = 3, top = 2, width = 4;
  const Tensor row_of = SomePermutation(tokens, top);
  const Tensor rows = Tensor::Random({tokens * top, width}, DType::kF64, 1);
  const Tensor weights = Tensor::Random({tokens, top}, DType::kF64, 2);
  const Tensor dy = Tensor::Random({tokens, width}, DType::kF64, 3);
  const Tensor y(dy.shape(), DType::kF64), drows(rows.shape(), DType::kF64);
  const Tensor dweights(weights.shape(), DType::kF64);
  reference::CombineRowsBackward({.dy = dy,
                                  .rows = rows,
                                  .row_of = row_of,
                                  .weights = weights,
                                  .drows = drows,
                                  .dweights = dweights});
  const auto loss = [&] {
    reference::CombineRows({.rows = rows, .row_of = row_of, .weights = weights, .y = y});
    return InnerProduct(y, dy);
  };
  EXPECT_TRUE(Near(drows, testing::FiniteDifference(rows, loss), {.absolute = 1e-8}));
  EXPECT_TRUE(Near(dweights, testing::FiniteDifference(weights, loss), {.absolute = 1e-8}));
}

}  // namespace
}  // namespace sluice::kernels
