#include "kernels/ops/swiglu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/core/exp.h"
#include "kernels/reference/swiglu.h"
#include "tests/support/every_device.h"
#include "tests/support/finite_difference.h"
#include "tests/support/near.h"
#include "tests/support/shapes.h"

namespace sluice::kernels {
namespace {

using testing::Near;
using testing::OneUlp;
using testing::PaddingOf;
using testing::Same;
using testing::Tensor;

class SwigluTest : public testing::EveryDevice {};
INSTANTIATE_ON_EVERY_DEVICE(SwigluTest);

// exp is off by 2e-7 at most, and so is the sigmoid; five roundings more.
constexpr double kRelative = 2e-7 + 5 * 0x1p-24;

TEST_P(SwigluTest, EqualsReference) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [rows, width] : testing::UglyMatrices()) {
      const Tensor gate_up = Tensor::Random({rows, 2 * width}, dtype, 1, -20, 20, PaddingOf(width));
      const Tensor y = Tensor::Unwritten({rows, width}, dtype, PaddingOf(width));
      const Tensor expected({rows, width}, DType::kF64);
      Swiglu(stream(), {.gate_up = gate_up, .y = y});
      Wait();
      reference::Swiglu({.gate_up = gate_up, .y = expected});
      ASSERT_TRUE(Near(y, expected, {.relative = kRelative + OneUlp(dtype)}))
          << rows << " x " << width << " " << NameOf(dtype).data();
      ASSERT_TRUE(y.PaddingIsUntouched());
    }
  }
}

// d gate = dy up s (1 + g (1 - s)): 1 - s loses relative accuracy where s is near 1, and 1 + g(1-s)
// cancels near g = -1.28, so the bound is relative to |dy up| s (1 + |g|) with 1 - s off by u.
TEST_P(SwigluTest, BackwardEqualsReference) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [rows, width] : testing::UglyMatrices()) {
      const Tensor gate_up = Tensor::Random({rows, 2 * width}, dtype, 1, -20, 20, PaddingOf(width));
      const Tensor dy = Tensor::Random({rows, width}, dtype, 2, -1, 1, PaddingOf(width));
      const Tensor dgate_up = Tensor::Unwritten({rows, 2 * width}, dtype, PaddingOf(width));
      const Tensor expected({rows, 2 * width}, DType::kF64);
      SwigluBackward(stream(), {.dy = dy, .gate_up = gate_up, .dgate_up = dgate_up});
      Wait();
      reference::SwigluBackward({.dy = dy, .gate_up = gate_up, .dgate_up = expected});
      Tensor magnitude({rows, 2 * width}, DType::kF64);
      for (int64_t i = 0; i < rows * width; ++i) {
        const int64_t at = i / width * 2 * width + i % width;
        const double gate = gate_up.At(at), up = gate_up.At(at + width);
        const double s = 1 / (1 + std::exp(-gate));
        magnitude.SetAt(at, std::abs(dy.At(i) * up) * s * (1 + std::abs(gate)));
        magnitude.SetAt(at + width, std::abs(dy.At(i) * gate) * s);
      }
      ASSERT_TRUE(
          Near(dgate_up, expected,
               {.relative = OneUlp(dtype), .magnitude = &magnitude, .magnitude_factor = kRelative}))
          << rows << " x " << width << " " << NameOf(dtype).data();
      ASSERT_TRUE(dgate_up.PaddingIsUntouched());
      SwigluBackward(stream(), {.dy = dy, .gate_up = gate_up, .dgate_up = gate_up});
      Wait();
      ASSERT_TRUE(Same(gate_up.To(dtype), dgate_up.To(dtype)));
    }
  }
}

// kernels/ops/swiglu.h: the same bits on every backend.
TEST_P(SwigluTest, BitsAreThoseOfTheDefinition) {
  constexpr int64_t kWidth = 5003;
  const Tensor gate_up = Tensor::Random({3, 2 * kWidth}, DType::kF32, 1, -20, 20);
  const Tensor dy = Tensor::Random({3, kWidth}, DType::kF32, 2), y({3, kWidth});
  const Tensor dgate_up({3, 2 * kWidth}), wanted_y({3, kWidth}), wanted({3, 2 * kWidth});
  Swiglu(stream(), {.gate_up = gate_up, .y = y});
  SwigluBackward(stream(), {.dy = dy, .gate_up = gate_up, .dgate_up = dgate_up});
  Wait();
  for (int64_t i = 0; i < 3 * kWidth; ++i) {
    const int64_t at = i / kWidth * 2 * kWidth + i % kWidth;
    const auto gate = static_cast<float>(gate_up.At(at));
    const auto up = static_cast<float>(gate_up.At(at + kWidth)), d = static_cast<float>(dy.At(i));
    const float sigmoid = Sigmoid(gate), scaled = d * up, half = gate * sigmoid;
    wanted_y.SetAt(i, static_cast<double>(Silu(gate) * up));
    wanted.SetAt(at, static_cast<double>(scaled * SiluSlope(gate, sigmoid)));
    wanted.SetAt(at + kWidth, static_cast<double>(d * half));
  }
  EXPECT_TRUE(Same(y, wanted_y));
  EXPECT_TRUE(Same(dgate_up, wanted));
}

TEST_P(SwigluTest, ExtremeGates) {
  const double infinity = std::numeric_limits<double>::infinity();
  const Tensor gate_up = Tensor::Of({200, -200, 88.8, -88.8, 0, std::nan(""), infinity, 3,  // gates
                                     1, 1, 1, 1, 1, 1, 1, std::nan("")},
                                    DType::kF32, {1, 16});
  const Tensor y({1, 8});
  Swiglu(stream(), {.gate_up = gate_up, .y = y});
  Wait();
  EXPECT_EQ(y.At(0), 200);
  EXPECT_EQ(y.At(1), 0);
  EXPECT_FLOAT_EQ(static_cast<float>(y.At(2)), 88.8f);
  EXPECT_NEAR(y.At(3), 0, 1e-30);
  EXPECT_EQ(y.At(4), 0);
  EXPECT_TRUE(std::isnan(y.At(5)));
  EXPECT_EQ(y.At(6), infinity);
  EXPECT_TRUE(std::isnan(y.At(7)));
}

TEST(SwigluReferenceTest, GradientsAreFiniteDifferences) {
  const Tensor gate_up = Tensor::Random({3, 10}, DType::kF64, 1, -4, 4);
  const Tensor dy = Tensor::Random({3, 5}, DType::kF64, 2), y({3, 5}, DType::kF64);
  const Tensor dgate_up({3, 10}, DType::kF64);
  reference::SwigluBackward({.dy = dy, .gate_up = gate_up, .dgate_up = dgate_up});
  const auto loss = [&] {
    reference::Swiglu({.gate_up = gate_up, .y = y});
    return testing::InnerProduct(y, dy);
  };
  EXPECT_TRUE(Near(dgate_up, testing::FiniteDifference(gate_up, loss), {.absolute = 1e-8}));
}

}  // namespace
}  // namespace sluice::kernels
