#include "kernels/ops/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/rms_norm.h"
#include "tests/support/every_device.h"
#include "tests/support/finite_difference.h"
#include "tests/support/near.h"
#include "tests/support/shapes.h"

namespace sluice::kernels {
namespace {

using testing::kF32Rounding;
using testing::Near;
using testing::OneUlp;
using testing::PaddingOf;
using testing::Same;
using testing::Tensor;

class RmsNormTest : public testing::EveryDevice {};
INSTANTIATE_ON_EVERY_DEVICE(RmsNormTest);

DType StatisticsOf(DType dtype) { return dtype == DType::kF64 ? dtype : DType::kF32; }

// With rows longer than what a GPU's threads keep of one.
std::vector<testing::RowsAndWidth> Shapes() {
  auto shapes = testing::UglyMatrices();
  shapes.push_back({3, 3000});
  shapes.push_back({2, 8216});
  shapes.push_back({1, 8203});
  return shapes;
}

struct Case {
  Case(int64_t rows, int64_t width, DType dtype, int64_t padding = 0)
      : x(Tensor::Random({rows, width}, dtype, 1, -2, 3, padding)),
        w(Tensor::Random({width}, dtype, 2, 0.5, 1.5)),
        residual(Tensor::Random({rows, width}, dtype, 3, -1, 1, 2 * padding)),
        dy(Tensor::Random({rows, width}, dtype, 4, -1, 1, padding)),
        dx_add(Tensor::Random({rows, width}, dtype, 5, -1, 1, padding)),
        residual_out(Tensor::Unwritten({rows, width}, dtype, padding)),
        y(Tensor::Unwritten({rows, width}, dtype, padding)),
        dx(Tensor::Unwritten({rows, width}, dtype, padding)),
        inverse_rms(Tensor::Unwritten({rows}, StatisticsOf(dtype))),
        dw(Tensor::Random({width}, StatisticsOf(dtype), 6)) {}

  Case To(DType dtype) const {
    Case other(x.shape()[0], x.shape()[1], dtype);
    other.x = x.To(dtype), other.w = w.To(dtype), other.residual = residual.To(dtype);
    other.dy = dy.To(dtype), other.dx_add = dx_add.To(dtype);
    other.inverse_rms = inverse_rms.To(StatisticsOf(dtype)), other.dw = dw.To(StatisticsOf(dtype));
    return other;
  }
  RmsNormArgs Forward(bool with_residual) const {
    RmsNormArgs args = {.x = x, .w = w, .y = y, .inverse_rms = inverse_rms, .eps = 1e-6f};
    if (with_residual) args.residual = residual, args.residual_out = residual_out;
    return args;
  }
  RmsNormBackwardInputArgs BackwardInput(bool with_add) const {
    RmsNormBackwardInputArgs args = {
        .dy = dy, .x = x, .w = w, .inverse_rms = inverse_rms, .dx = dx};
    if (with_add) args.dx_add = dx_add;
    return args;
  }
  RmsNormBackwardWeightArgs BackwardWeight() const {
    return {.dy = dy, .x = x, .inverse_rms = inverse_rms, .dw = dw};
  }

  Tensor x, w, residual, dy, dx_add, residual_out, y, dx, inverse_rms, dw;
};

// All terms of the sum of squares are positive: its relative error is below width u, half of that
// after the root; three roundings more.
TEST_P(RmsNormTest, EqualsReference) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [rows, width] : Shapes()) {
      for (bool with_residual : {false, true}) {
        const Case actual(rows, width, dtype, PaddingOf(width));
        const Case expected = actual.To(DType::kF64);
        RmsNorm(stream(), actual.Forward(with_residual));
        Wait();
        if (with_residual) {  // the norm is that of the rounded sum, as the contract says
          const Case again = actual.To(dtype);
          reference::RmsNorm(again.Forward(true));
          EXPECT_TRUE(Same(actual.residual_out.To(dtype), again.residual_out));
          for (int64_t i = 0; i < rows * width; ++i) expected.x.SetAt(i, again.residual_out.At(i));
        }
        reference::RmsNorm(expected.Forward(false));
        const double relative = (static_cast<double>(width) + 8) * kF32Rounding;
        EXPECT_TRUE(Near(actual.y, expected.y, {.relative = relative + OneUlp(dtype)}))
            << rows << " x " << width << " " << NameOf(dtype).data();
        EXPECT_TRUE(Near(actual.inverse_rms, expected.inverse_rms, {.relative = relative}));
        EXPECT_TRUE(actual.y.PaddingIsUntouched() && actual.residual_out.PaddingIsUntouched());
      }
    }
  }
}

// dx = r dy w - x r^3 dot / H. |dy w| <= 1.5, |x| <= 3 and x^2 r^2 <= H for one element, so
// |x r dot / H| r^2 <= 1.5 * 3 * 3 r^3: bound by the sum of both, with width + 8 roundings.
TEST_P(RmsNormTest, BackwardInputEqualsReference) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [rows, width] : Shapes()) {
      for (bool with_add : {false, true}) {
        const Case actual(rows, width, dtype, PaddingOf(width));
        reference::RmsNorm(actual.Forward(false));
        const Case expected = actual.To(DType::kF64);
        RmsNormBackwardInput(stream(), actual.BackwardInput(with_add));
        Wait();
        reference::RmsNormBackwardInput(expected.BackwardInput(with_add));
        Tensor magnitude(actual.x.shape(), DType::kF64);
        for (int64_t i = 0; i < magnitude.num_elements(); ++i) {
          const double r = actual.inverse_rms.At(i / width);
          magnitude.SetAt(i, 1.5 * r + 13.5 * r * r * r + 1);
        }
        EXPECT_TRUE(Near(actual.dx, expected.dx,
                         {.relative = OneUlp(dtype),
                          .magnitude = &magnitude,
                          .magnitude_factor = (static_cast<double>(width) + 8) * kF32Rounding}))
            << rows << " x " << width << " " << NameOf(dtype).data();
        EXPECT_TRUE(actual.dx.PaddingIsUntouched());
      }
    }
  }
}

// Sums of `rows` terms of at most |dy x r|: (rows + 3) u times the sum of absolute values.
TEST_P(RmsNormTest, BackwardWeightEqualsReference) {
  auto shapes = testing::UglyMatrices();
  shapes.push_back({4200, 3});  // many parts of 64 rows, more than a block takes at once
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [rows, width] : shapes) {
      const Case actual(rows, width, dtype, PaddingOf(width));
      reference::RmsNorm(actual.Forward(false));
      const Case expected = actual.To(DType::kF64);
      Tensor magnitude({width}, DType::kF64);
      for (int64_t h = 0; h < width; ++h) {
        double sum = std::abs(actual.dw.At(h));
        for (int64_t t = 0; t < rows; ++t) {
          sum += std::abs(actual.dy.At(t * width + h) * actual.x.At(t * width + h)) *
                 actual.inverse_rms.At(t);
        }
        magnitude.SetAt(h, sum);
      }
      RmsNormBackwardWeight(stream(), actual.BackwardWeight());
      Wait();
      reference::RmsNormBackwardWeight(expected.BackwardWeight());
      EXPECT_TRUE(Near(actual.dw, expected.dw,
                       {.magnitude = &magnitude,
                        .magnitude_factor = (static_cast<double>(rows) + 4) * kF32Rounding}))
          << rows << " x " << width << " " << NameOf(dtype).data();
    }
  }
}

TEST_P(RmsNormTest, OutputsMayBeInputs) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const Case apart(9, 37, dtype);
    RmsNorm(stream(), apart.Forward(true));
    RmsNormBackwardInput(stream(), apart.BackwardInput(true));
    Wait();
    const Tensor x = apart.x.Clone(), dy = apart.dy.Clone(), dx_add = apart.dx_add.Clone();
    RmsNormArgs forward = apart.Forward(true);
    const Tensor residual_is_out = apart.residual.Clone(), y(x.shape(), dtype);
    forward.residual = residual_is_out, forward.residual_out = residual_is_out, forward.y = y;
    RmsNorm(stream(), forward);
    RmsNormBackwardInputArgs into_dy = apart.BackwardInput(true);
    into_dy.dy = dy, into_dy.dx = dy;
    RmsNormBackwardInput(stream(), into_dy);
    RmsNormBackwardInputArgs into_add = apart.BackwardInput(true);
    into_add.dx_add = dx_add, into_add.dx = dx_add;
    RmsNormBackwardInput(stream(), into_add);
    Wait();
    EXPECT_TRUE(Same(residual_is_out, apart.residual_out));
    EXPECT_TRUE(Same(y, apart.y));
    EXPECT_TRUE(Same(dy, apart.dx));
    EXPECT_TRUE(Same(dx_add, apart.dx));
  }
}

TEST_P(RmsNormTest, RowDoesNotDependOnTheBatch) {
  const Case batch(300, 256, DType::kF32);
  RmsNorm(stream(), batch.Forward(false));
  RmsNormBackwardInput(stream(), batch.BackwardInput(false));
  Wait();
  for (int64_t t : {0, 151, 299}) {
    const Tensor y({1, 256}), dx({1, 256}), inverse_rms({1});
    RmsNorm(stream(),
            {.x = batch.x.view().Rows(t, 1), .w = batch.w, .y = y, .inverse_rms = inverse_rms});
    RmsNormBackwardInput(stream(), {.dy = batch.dy.view().Rows(t, 1),
                                    .x = batch.x.view().Rows(t, 1),
                                    .w = batch.w,
                                    .inverse_rms = inverse_rms,
                                    .dx = dx});
    Wait();
    for (int64_t h = 0; h < 256; ++h) {
      ASSERT_EQ(y.At(h), batch.y.At(t * 256 + h)) << t;
      ASSERT_EQ(dx.At(h), batch.dx.At(t * 256 + h)) << t;
    }
  }
}

TEST_P(RmsNormTest, RowDoesNotDependOnWhereItLies) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const Case whole(2, 1032, dtype), apart(2, 1032, dtype, 3);
    for (const Case* test : {&whole, &apart}) {
      RmsNorm(stream(), test->Forward(true));
      RmsNormBackwardInput(stream(), test->BackwardInput(true));
      RmsNormBackwardWeight(stream(), test->BackwardWeight());
    }
    Wait();
    EXPECT_TRUE(Same(whole.y.To(dtype), apart.y.To(dtype)));
    EXPECT_TRUE(Same(whole.inverse_rms, apart.inverse_rms));
    EXPECT_TRUE(Same(whole.dx.To(dtype), apart.dx.To(dtype)));
    EXPECT_TRUE(Same(whole.dw, apart.dw));
  }
}

// What a GPU's training gives from run to run depends on it: element h is in sum h mod 128, and
// neighbours of 16, 8, 4, 2, 1 among 32 are added, then the four that are left.
TEST_P(RmsNormTest, SumsOfAGpuHaveTheirOrder) {
  if (GetParam().create == nullptr) GTEST_SKIP() << "the CPU's order is another";
  for (int64_t width : {37, 1032, 3000, 8216}) {
    const Case test(1, width, DType::kBF16);
    RmsNorm(stream(), test.Forward(false));
    Wait();
    std::vector<float> sums(128, 0.0f);
    for (int64_t h = 0; h < width; ++h) {
      const auto x = static_cast<float>(test.x.At(h));
      float& sum = sums[static_cast<size_t>(h % 128)];
      sum = std::fmaf(x, x, sum);
    }
    for (size_t step : {16, 8, 4, 2, 1}) {
      for (size_t i = 0; i < 128; ++i) {
        if (i % (2 * step) < step) sums[i] += sums[i + step];
      }
    }
    const float sum = (sums[0] + sums[64]) + (sums[32] + sums[96]);
    const float mean = sum / static_cast<float>(width);
    EXPECT_EQ(static_cast<float>(test.inverse_rms.At(0)), 1.0f / std::sqrt(mean + 1e-6f)) << width;
  }
}

TEST_P(RmsNormTest, NonFiniteValuesShow) {
  for (double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    const Case test(2, 40, DType::kF32);
    test.x.SetAt(47, bad);
    RmsNorm(stream(), test.Forward(false));
    Wait();
    EXPECT_TRUE(std::isnan(test.y.At(47)));
    EXPECT_TRUE(std::isfinite(test.y.At(0)));
  }
}

TEST(RmsNormReferenceTest, GradientsAreFiniteDifferences) {
  const Case test(3, 5, DType::kF64);
  for (int64_t h = 0; h < 5; ++h) test.dw.SetAt(h, 0);
  reference::RmsNorm(test.Forward(false));
  reference::RmsNormBackwardInput(test.BackwardInput(false));
  reference::RmsNormBackwardWeight(test.BackwardWeight());
  RmsNormArgs args = test.Forward(false);
  const Tensor y({3, 5}, DType::kF64), inverse_rms({3}, DType::kF64);
  args.y = y, args.inverse_rms = inverse_rms;
  const auto loss = [&] {
    reference::RmsNorm(args);
    return testing::InnerProduct(y, test.dy);
  };
  EXPECT_TRUE(Near(test.dx, testing::FiniteDifference(test.x, loss), {.absolute = 1e-8}));
  EXPECT_TRUE(Near(test.dw, testing::FiniteDifference(test.w, loss), {.absolute = 1e-8}));
}

}  // namespace
}  // namespace sluice::kernels
