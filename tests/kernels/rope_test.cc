#include "kernels/ops/rope.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/ops/copy_heads.h"
#include "kernels/reference/rope.h"
#include "tests/support/every_device.h"
#include "tests/support/near.h"

namespace sluice::kernels {
namespace {

using testing::Near;
using testing::OneUlp;
using testing::Same;
using testing::Tensor;

class RopeTest : public testing::EveryDevice {};
INSTANTIATE_ON_EVERY_DEVICE(RopeTest);

struct Problem {
  int64_t tokens, heads, width, head_stride, offset;  // offset: columns before the first rotated
};

std::vector<Problem> Problems() {
  return {{0, 1, 2, 2, 0},   {1, 1, 2, 2, 0},    {3, 1, 16, 16, 0}, {5, 2, 6, 9, 3},
          {4, 3, 34, 40, 6}, {7, 8, 16, 48, 32}, {2, 2, 64, 64, 0}, {3, 2, 130, 131, 1}};
}

constexpr int64_t kPositions = 29;

struct Angles {
  explicit Angles(int64_t width) : cos({kPositions, width / 2}), sin({kPositions, width / 2}) {
    for (int64_t i = 0; i < cos.num_elements(); ++i) {
      cos.SetAt(i, std::cos(0.37 * static_cast<double>(i)));
      sin.SetAt(i, std::sin(0.37 * static_cast<double>(i)));
    }
  }
  Tensor cos, sin;
};

// The part of a [T, heads * stride] tensor that starts at the first rotated column.
TensorView FromOffset(const Tensor& x, const Problem& problem) {
  return x.view().Columns(problem.offset, x.shape()[1] - problem.offset);
}

RopeArgs ArgsOf(const Problem& problem, const Tensor& x, const Tensor& y, const Angles& angles,
                const Tensor& positions) {
  return {.x = FromOffset(x, problem),
          .y = FromOffset(y, problem),
          .cos = angles.cos,
          .sin = angles.sin,
          .positions = positions,
          .num_heads = problem.heads,
          .head_stride = problem.head_stride,
          .y_head_stride = problem.head_stride};
}

// Two products and a sum of values of at most 1: three roundings of at most u each.
TEST_P(RopeTest, EqualsReferenceAndLeavesOtherColumns) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Problem& problem : Problems()) {
      for (RopeLayout layout : {RopeLayout::kInterleaved, RopeLayout::kHalf}) {
        for (bool inverse : {false, true}) {
          const Shape shape = {problem.tokens, problem.heads * problem.head_stride};
          const Angles angles(problem.width);
          const Tensor positions =
              Tensor::RandomIntegers({problem.tokens}, DType::kI32, 3, 0, kPositions - 1);
          const Tensor x = Tensor::Random(shape, dtype, 1, -1, 1, 3);
          const Tensor y = x.Clone(), expected = x.To(DType::kF64);
          RopeArgs args = ArgsOf(problem, x, y, angles, positions);
          args.layout = layout, args.inverse = inverse;
          Rope(stream(), args);
          Wait();
          RopeArgs wanted = ArgsOf(problem, x, expected, angles, positions);
          wanted.layout = layout, wanted.inverse = inverse;
          reference::Rope(wanted);
          ASSERT_TRUE(Near(y, expected, {.absolute = 4 * 0x1p-24, .relative = OneUlp(dtype)}))
              << problem.tokens << " " << problem.heads << " " << problem.width;
          ASSERT_TRUE(y.PaddingIsUntouched());
          args.y = FromOffset(x, problem);
          Rope(stream(), args);
          Wait();
          ASSERT_TRUE(Same(x, y)) << "in place";
        }
      }
    }
  }
}

TEST_P(RopeTest, InverseRotatesBack) {
  for (RopeLayout layout : {RopeLayout::kInterleaved, RopeLayout::kHalf}) {
    const Problem problem = {6, 4, 24, 24, 0};
    const Angles angles(problem.width);
    const Tensor positions = Tensor::Of({0, 1, 2, 3, 28, 5});
    const Tensor x = Tensor::Random({6, 96}, DType::kF32, 1), y({6, 96});
    RopeArgs args = ArgsOf(problem, x, y, angles, positions);
    args.layout = layout;
    Rope(stream(), args);
    args = ArgsOf(problem, y, y, angles, positions);
    args.layout = layout, args.inverse = true;
    Rope(stream(), args);
    Wait();
    // Both rotations round, and cos^2 + sin^2 of rounded tables is 1 within 2 u.
    EXPECT_TRUE(Near(y, x, {.absolute = 12 * 0x1p-24}));
  }
}

TEST_P(RopeTest, SumHeadsIsTheAdjointOfBroadcastHeads) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Problem& problem : Problems()) {
      const Shape wide = {problem.tokens, problem.heads * problem.head_stride};
      const Shape narrow = {problem.tokens, problem.width};
      const Tensor key = Tensor::RandomIntegers(narrow, dtype, 1, -3, 3);
      const Tensor gradient = Tensor::RandomIntegers(wide, dtype, 2, -3, 3);
      const Tensor copied(wide, dtype), sum(narrow, dtype), expected(narrow, dtype);
      BroadcastHeads(stream(), {.x = key,
                                .y = FromOffset(copied, problem),
                                .num_heads = problem.heads,
                                .head_stride = problem.head_stride});
      SumHeads(stream(), {.x = FromOffset(gradient, problem),
                          .y = sum,
                          .num_heads = problem.heads,
                          .head_stride = problem.head_stride});
      Wait();
      reference::SumHeads({.x = FromOffset(gradient, problem),
                           .y = expected,
                           .num_heads = problem.heads,
                           .head_stride = problem.head_stride});
      EXPECT_TRUE(Same(sum, expected));
      double forward = 0, backward = 0;  // small integers: exact
      for (int64_t i = 0; i < copied.num_elements(); ++i) forward += copied.At(i) * gradient.At(i);
      for (int64_t i = 0; i < key.num_elements(); ++i) backward += key.At(i) * sum.At(i);
      EXPECT_EQ(forward, backward) << problem.tokens << " " << problem.heads;
    }
  }
}

// Heads of both sides begin at `offset`, at distances of their own. What lies between keeps its
// bits.
TEST_P(RopeTest, CopyHeadsMovesTheseColumnsAndNoOther) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Problem& problem : Problems()) {
      const int64_t y_stride = problem.width + 5, y_offset = 2, padding = 3;
      const int64_t x_width = problem.heads * problem.head_stride;
      const Tensor x = Tensor::Random({problem.tokens, x_width}, dtype, 1, -1, 1, padding);
      const Tensor y =
          Tensor::Random({problem.tokens, problem.heads * y_stride}, dtype, 2, -1, 1, padding + 1);
      const Tensor expected = y.Clone();
      for (int64_t t = 0; t < problem.tokens; ++t) {
        for (int64_t a = 0; a < problem.heads; ++a) {
          for (int64_t d = 0; d < problem.width; ++d) {
            expected.SetAt((t * problem.heads + a) * y_stride + y_offset + d,
                           x.At(t * x_width + a * problem.head_stride + problem.offset + d));
          }
        }
      }
      CopyHeads(stream(), {.x = x.view().Columns(problem.offset, problem.width),
                           .y = y.view().Columns(y_offset, problem.width),
                           .num_heads = problem.heads,
                           .head_stride = problem.head_stride,
                           .y_head_stride = y_stride});
      Wait();
      ASSERT_TRUE(Same(y, expected))
          << problem.tokens << " " << problem.heads << " " << problem.width;
      ASSERT_TRUE(y.PaddingIsUntouched());
    }
  }
}

TEST(RopeReferenceTest, InverseIsTheAdjoint) {
  for (RopeLayout layout : {RopeLayout::kInterleaved, RopeLayout::kHalf}) {
    const Problem problem = {5, 2, 6, 8, 2};
    const Angles angles(problem.width);
    const Tensor positions = Tensor::Of({0, 7, 2, 3, 28});
    const Tensor x = Tensor::Random({5, 16}, DType::kF64, 1);
    const Tensor dy = Tensor::Random({5, 16}, DType::kF64, 2);
    const Tensor y = x.Clone(), dx = dy.Clone();
    RopeArgs args = ArgsOf(problem, x, y, angles, positions);
    args.layout = layout;
    reference::Rope(args);
    args = ArgsOf(problem, dy, dx, angles, positions);
    args.layout = layout, args.inverse = true;
    reference::Rope(args);
    double forward = 0, backward = 0;
    for (int64_t i = 0; i < x.num_elements(); ++i) {
      forward += y.At(i) * dy.At(i);
      backward += x.At(i) * dx.At(i);
    }
    EXPECT_NEAR(forward, backward, 1e-12);
  }
}

// x = (1, 0) at angle a becomes (cos a, sin a): the direction of rotation.
TEST(RopeReferenceTest, RotatesForward) {
  const Tensor x = Tensor::Of({1, 0}, DType::kF64, {1, 2}), y({1, 2}, DType::kF64);
  const Tensor cos = Tensor::Of({0.8}, DType::kF32, {1, 1});
  const Tensor sin = Tensor::Of({0.6}, DType::kF32, {1, 1});
  reference::Rope({.x = x, .y = y, .cos = cos, .sin = sin, .positions = Tensor::Of({0})});
  EXPECT_FLOAT_EQ(static_cast<float>(y.At(0)), 0.8f);
  EXPECT_FLOAT_EQ(static_cast<float>(y.At(1)), 0.6f);
}

}  // namespace
}  // namespace sluice::kernels
