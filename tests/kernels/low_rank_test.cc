#include "kernels/ops/low_rank.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/reference/low_rank.h"
#include "tests/support/every_device.h"
#include "tests/support/near.h"

namespace sluice::kernels {
namespace {

using testing::Near;
using testing::Same;
using testing::Tensor;

class LowRankTest : public testing::EveryDevice {};
INSTANTIATE_ON_EVERY_DEVICE(LowRankTest);

constexpr DType kFloats[] = {DType::kF32, DType::kBF16};

TEST_P(LowRankTest, ScaledAddAgreesWithTheReferenceOnStridedRows) {
  for (const DType dtype : kFloats) {
    for (const int64_t width : {1, 7, 16, 33}) {
      for (const bool accumulate : {false, true}) {
        const Tensor x = Tensor::Random({5, width}, dtype, 1, -1, 1, 3);
        const Tensor y = Tensor::Random({5, width}, dtype, 2, -1, 1, 5);
        const Tensor expected = y.Clone();
        ScaledAdd(stream(), {.x = x, .y = y, .scale = 0.7f, .accumulate = accumulate});
        Wait();
        reference::ScaledAdd({.x = x, .y = expected, .scale = 0.7f, .accumulate = accumulate});
        // Two roundings of numbers below 2 in FP32, and the result's own.
        EXPECT_TRUE(Near(y, expected, {.absolute = 0x1p-23, .relative = testing::OneUlp(dtype)}));
        EXPECT_TRUE(y.PaddingIsUntouched());
      }
    }
  }
}

TEST_P(LowRankTest, ScaledAddScalesInPlace) {
  const Tensor x = Tensor::Random({3, 9}, DType::kBF16, 1), expected = x.Clone();
  ScaledAdd(stream(), {.x = x, .y = x, .scale = 2});
  Wait();
  for (int64_t i = 0; i < x.num_elements(); ++i) EXPECT_EQ(x.At(i), 2 * expected.At(i));
}

Tensor Ids(std::initializer_list<int64_t> values) {
  const Tensor ids({static_cast<int64_t>(values.size())}, DType::kI64);
  std::copy(values.begin(), values.end(), ids.view().mutable_data<int64_t>());
  return ids;
}

TEST_P(LowRankTest, DropoutAgreesWithTheReference) {
  for (const DType dtype : kFloats) {
    const Tensor x = Tensor::Random({4, 13}, dtype, 1, -1, 1, 3);
    const Tensor y = Tensor::Unwritten({4, 13}, dtype, 2), expected({4, 13}, dtype);
    const Tensor ids = Ids({5, 0, int64_t{1} << 39, 6});
    const DropoutArgs args = {
        .x = x, .row_ids = ids, .y = y, .rate = 0.3f, .key = 11, .row_stream = 12};
    Dropout(stream(), args);
    Wait();
    DropoutArgs truth = args;
    truth.y = expected;
    reference::Dropout(truth);
    EXPECT_TRUE(Near(y, expected, {.relative = 2 * testing::OneUlp(dtype)}));
    EXPECT_TRUE(y.PaddingIsUntouched());
  }
}

TEST_P(LowRankTest, ARowIsDroppedTheSameWhereverItStands) {
  const Tensor x = Tensor::Random({3, 10}, DType::kF32, 1), all({3, 10}), alone({1, 10});
  const Tensor ids = Ids({7, 3, 9}), one_id = Ids({9});
  DropoutArgs args = {.x = x, .row_ids = ids, .y = all, .rate = 0.5f, .key = 1, .row_stream = 2};
  Dropout(stream(), args);
  args.x = x.view().Rows(2, 1);
  args.row_ids = one_id;
  args.y = alone;
  Dropout(stream(), args);
  Wait();
  int kept = 0;
  for (int64_t i = 0; i < 10; ++i) {
    EXPECT_EQ(alone.At(i), all.At(20 + i));
    kept += alone.At(i) != 0;
  }
  EXPECT_GT(kept, 0);
  EXPECT_LT(kept, 10);
}

// A binomial count: five standard deviations, which one seed in two million leaves.
TEST_P(LowRankTest, DropsTheShareItWasAskedTo) {
  const Tensor x({200, 50}), ids = Tensor::Unwritten({200}, DType::kI64);
  RowIds(stream(), {.first = 1000, .ids = ids});
  Wait();
  EXPECT_EQ(ids.view().data<int64_t>()[199], 1199);
  for (int64_t i = 0; i < x.num_elements(); ++i) x.SetAt(i, 1);
  Dropout(stream(), {.x = x, .row_ids = ids, .y = x, .rate = 0.2f, .key = 3, .row_stream = 4});
  Wait();
  double dropped = 0;
  for (int64_t i = 0; i < x.num_elements(); ++i) {
    dropped += x.At(i) == 0;
    if (x.At(i) != 0) {
      ASSERT_EQ(x.At(i), 1.25);
    }
  }
  EXPECT_NEAR(dropped, 2000, 5 * std::sqrt(10000 * 0.2 * 0.8));
}

TEST_P(LowRankTest, RowIdsOfExpertsSurviveTheFloats) {
  const int64_t first = (int64_t{1} << 39) + 12345;
  const Tensor parts = Tensor::Unwritten({4, 2}), ids = Tensor::Unwritten({4}, DType::kI64);
  const Tensor offsets = Tensor::Of({0, 3, 3, 4});
  SplitRowIds(stream(), {.first = first, .parts = parts});
  ExpertRowIds(
      stream(),
      {.parts = parts, .offsets = offsets, .ids = ids, .first_expert = 6, .num_experts = 9});
  Wait();
  const int64_t* found = ids.view().data<int64_t>();
  for (int64_t t = 0; t < 4; ++t) {
    EXPECT_EQ(found[t], (first + t) * 9 + 6 + (t < 3 ? 0 : 2));
  }
}

}  // namespace
}  // namespace sluice::kernels
