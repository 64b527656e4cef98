#include "kernels/ops/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/reference/adamw.h"
#include "tests/support/every_device.h"
#include "tests/support/near.h"
#include "tests/support/shapes.h"

namespace sluice::kernels {
namespace {

using testing::Near;
using testing::OneUlp;
using testing::Same;
using testing::Tensor;

class AdamWTest : public testing::EveryDevice {};
INSTANTIATE_ON_EVERY_DEVICE(AdamWTest);

struct State {
  State(int64_t n, DType moments)
      : master(Tensor::Random({n}, DType::kF32, 1)),
        gradient(Tensor::Random({n}, DType::kF32, 2)),
        m(Tensor::Random({n}, moments, 3)),
        v(Tensor::Random({n}, moments, 4, 0, 1)) {}
  AdamWArgs Args() const {
    return {.master = master,
            .gradient = gradient,
            .m = m,
            .v = v,
            .gradient_scale = 0.7f,
            .learning_rate = 0.01f,
            .weight_decay = 0.1f,
            .step = 3};
  }
  State Clone() const {
    State copy = *this;
    copy.master = master.Clone(), copy.m = m.Clone(), copy.v = v.Clone();
    return copy;
  }
  Tensor master, gradient, m, v;
};

// m and v: three roundings of terms of at most 1. master: lr times a step that is off by a few u of
// m / sqrt(v); v >= 0.05 (0.7 g)^2 and v may be tiny where both are, so the step's bound is
// relative to |m| / sqrt(v) <= 1 / sqrt(v).
TEST_P(AdamWTest, EqualsReference) {
  for (DType moments : {DType::kF32, DType::kBF16}) {
    for (int64_t n : testing::UglyLengths()) {
      for (DType value_dtype : {DType::kF32, DType::kBF16, DType::kU8}) {  // u8 stands for none
        const State actual(n, moments), expected = actual.Clone();
        const Tensor value = Tensor::Unwritten({n}, value_dtype), expected_value({n}, value_dtype);
        AdamWArgs args = actual.Args(), wanted = expected.Args();
        if (value_dtype != DType::kU8) args.value = value, wanted.value = expected_value;
        AdamW(stream(), args);
        Wait();
        reference::AdamW(wanted);
        ASSERT_TRUE(
            Near(actual.m, expected.m, {.absolute = 4 * 0x1p-24, .relative = OneUlp(moments)}));
        ASSERT_TRUE(Near(actual.v, expected.v, {.relative = 4 * 0x1p-24 + OneUlp(moments)}));
        Tensor step({n}, DType::kF64);
        for (int64_t i = 0; i < n; ++i) step.SetAt(i, 1 / std::sqrt(expected.v.At(i) + 1e-30));
        // (1 - 0.9^3) and (1 - 0.95^3) scale m / sqrt(v) by 1.4.
        ASSERT_TRUE(Near(actual.master, expected.master,
                         {.absolute = 0x1p-24,
                          .relative = 0x1p-23,
                          .magnitude = &step,
                          .magnitude_factor = 0.01 * 1.4 * 12 * 0x1p-24}));
        if (value_dtype == DType::kU8) continue;
        ASSERT_TRUE(Same(value, actual.master.To(value_dtype)));
      }
    }
  }
}

TEST_P(AdamWTest, ValueMayBeMaster) {
  const State apart(1000, DType::kF32), same = apart.Clone();
  AdamW(stream(), apart.Args());
  AdamWArgs args = same.Args();
  args.value = same.master;
  AdamW(stream(), args);
  Wait();
  EXPECT_TRUE(Same(same.master, apart.master));
}

// Shards of any cut give the bits of the whole.
TEST_P(AdamWTest, DoesNotDependOnTheShard) {
  const State whole(5000, DType::kF32), parts = whole.Clone();
  AdamW(stream(), whole.Args());
  for (const auto& [begin, count] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {1, 16}, {17, 2000}, {2017, 2983}}) {
    AdamWArgs args = parts.Args();
    args.master = parts.master.view().Rows(begin, count);
    args.gradient = parts.gradient.view().Rows(begin, count);
    args.m = parts.m.view().Rows(begin, count), args.v = parts.v.view().Rows(begin, count);
    AdamW(stream(), args);
  }
  Wait();
  EXPECT_TRUE(Same(parts.master, whole.master));
  EXPECT_TRUE(Same(parts.m, whole.m));
  EXPECT_TRUE(Same(parts.v, whole.v));
}

// From zero moments the first step moves by the learning rate in the gradient's direction.
TEST_P(AdamWTest, FirstStepIsTheSignOfTheGradient) {
  const State state(3, DType::kF32);
  for (int64_t i = 0; i < 3; ++i) {
    state.m.SetAt(i, 0), state.v.SetAt(i, 0), state.master.SetAt(i, 1);
    state.gradient.SetAt(i, static_cast<double>(i) - 1);
  }
  AdamWArgs args = state.Args();
  args.step = 1, args.weight_decay = 0;
  AdamW(stream(), args);
  Wait();
  EXPECT_NEAR(state.master.At(0), 1.01, 1e-6);
  EXPECT_EQ(state.master.At(1), 1);
  EXPECT_NEAR(state.master.At(2), 0.99, 1e-6);
}

// Sums of positive doubles: relative error below n 2^-53.
TEST_P(AdamWTest, SumSquaresEqualsReference) {
  for (int64_t n : testing::UglyLengths()) {
    for (bool accumulate : {false, true}) {
      const Tensor x = Tensor::Random({n}, DType::kF32, 1);
      const Tensor scratch = Tensor::Unwritten({n / 4096 + 1}, DType::kF64);
      const Tensor sum = Tensor::Of({3}, DType::kF64, {1}), expected = sum.Clone();
      SumSquares(stream(), {.x = x, .sum = sum, .accumulate = accumulate, .scratch = scratch});
      Wait();
      reference::SumSquares({.x = x, .sum = expected, .accumulate = accumulate});
      ASSERT_TRUE(Near(sum, expected, {.relative = static_cast<double>(n + 4) * 0x1p-53})) << n;
    }
  }
}

// The same bits on every target and number of threads.
TEST_P(AdamWTest, SumSquaresIsTheSameEverywhere) {
  const int64_t n = 100003;
  const Tensor x = Tensor::Random({n}, DType::kF32, 1);
  const Tensor scratch = Tensor::Unwritten({n / 4096 + 1}, DType::kF64);
  const Tensor sum = Tensor::Unwritten({1}, DType::kF64), expected({1}, DType::kF64);
  SumSquares(stream(), {.x = x, .sum = sum, .scratch = scratch});
  Wait();
  cpu::SelectTarget(cpu::Target::kScalar);
  SumSquares(stream(), {.x = x, .sum = expected, .scratch = scratch});
  Wait();
  EXPECT_TRUE(Same(sum, expected));
}

TEST_P(AdamWTest, SumSquaresShowsWhatIsNotFiniteAndSurvivesWhatIsLarge) {
  const Tensor scratch({2}, DType::kF64), sum({1}, DType::kF64);
  for (double value : {std::nan(""), std::numeric_limits<double>::infinity(), 1e30}) {
    const Tensor x = Tensor::Random({5000}, DType::kF32, 1);
    x.SetAt(4999, value);
    SumSquares(stream(), {.x = x, .sum = sum, .scratch = scratch});
    Wait();
    EXPECT_EQ(std::isfinite(sum.At(0)), std::isfinite(value));
  }
}

}  // namespace
}  // namespace sluice::kernels
