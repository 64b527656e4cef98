// GroupedMatmul and GroupedWeightGradient of every target.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/ops/matmul.h"
#include "kernels/reference/matmul.h"
#include "tests/kernels/matmul_testing.h"
#include "tests/support/near.h"
#include "tests/support/tensor.h"

namespace sluice::kernels {
namespace {

using testing::Near;
using testing::Same;
using testing::Tensor;

constexpr int64_t kIn = 37, kOut = 45;

// Tokens per expert: none anywhere, none at either end, all on one, one each, uneven.
const std::vector<std::vector<int64_t>> kSplits = {
    {0},  {0, 0, 0}, {0, 13, 0, 1, 0}, {0, 0, 200, 0}, {1, 1, 1, 1}, {29, 0, 3, 60},
    {12}, {5, 1100}};

Tensor OffsetsOf(const std::vector<int64_t>& counts) {
  const Tensor offsets({static_cast<int64_t>(counts.size()) + 1}, DType::kI32);
  int64_t sum = 0;
  for (size_t e = 0; e < counts.size(); ++e) {
    sum += counts[e];
    offsets.SetAt(static_cast<int64_t>(e) + 1, static_cast<double>(sum));
  }
  return offsets;
}

int64_t TokensOf(const std::vector<int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

Tensor Absolute(const Tensor& t) {
  const Tensor absolute = t.Clone();
  for (int64_t i = 0; i < t.num_elements(); ++i) absolute.SetAt(i, std::abs(t.At(i)));
  return absolute;
}

TEST(GroupedMatmul, AgreesWithTheReference) {
  TestDevice device(2);
  for (const auto& counts : kSplits) {
    const int64_t tokens = TokensOf(counts), experts = static_cast<int64_t>(counts.size());
    const Tensor offsets = OffsetsOf(counts);
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      for (bool transpose : {false, true}) {
        const Tensor x = Tensor::Random({tokens, kIn}, dtype, 1);
        const Tensor w = Tensor::Random(
            transpose ? Shape{experts, kOut, kIn} : Shape{experts, kIn, kOut}, dtype, 2);
        const Tensor expected({tokens, kOut}), magnitude({tokens, kOut});
        reference::GroupedMatmul({x, w, offsets, expected, transpose});
        reference::GroupedMatmul({Absolute(x), Absolute(w), offsets, magnitude, transpose});
        ForEachTarget([&] {
          const TestPacked packed(device.stream(), w, transpose, dtype);
          const Tensor y({tokens, kOut});
          GroupedMatmul(device.stream(), {.x = x, .w = packed.matrix, .offsets = offsets, .y = y});
          // As in matmul_test: (K + 1) roundings of sum |a||b|, and the reference's own.
          EXPECT_TRUE(Near(
              y, expected,
              {.magnitude = &magnitude, .magnitude_factor = (kIn + 2) * testing::kF32Rounding}));
        });
      }
    }
  }
}

TEST(GroupedMatmul, ARowIsThePackedProductWithItsExpert) {
  TestDevice device(2), alone(1);
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const std::vector<int64_t> counts = {29, 0, 3, 60};
    const Tensor offsets = OffsetsOf(counts), x = Tensor::Random({92, kIn}, dtype, 3);
    const Tensor w = Tensor::Random({4, kIn, kOut}, dtype, 4);
    ForEachTarget([&] {
      const TestPacked packed(device.stream(), w, false, dtype);
      const Tensor y({92, kOut}, dtype);
      GroupedMatmul(device.stream(), {.x = x, .w = packed.matrix, .offsets = offsets, .y = y});
      for (int64_t e = 0; e < 4; ++e) {
        const size_t bytes = PackedBytes(1, kIn, kOut, dtype);
        PackedMatrix one = packed.matrix;
        one.num_matrices = 1;
        one.storage =
            one.storage.Rows(e * static_cast<int64_t>(bytes), static_cast<int64_t>(bytes));
        for (int64_t t = static_cast<int64_t>(offsets.At(e)); t < offsets.At(e + 1); ++t) {
          const Tensor row({1, kOut}, dtype);
          PackedMatmul(alone.stream(), {.a = x.view().Rows(t, 1), .b = one, .c = row});
          for (int64_t j = 0; j < kOut; ++j) ASSERT_EQ(row.At(j), y.At(t * kOut + j)) << t;
        }
      }
    });
  }
}

TEST(GroupedMatmul, ThreadsDoNotMatter) {
  TestDevice one(1), two(2), three(3);
  const Tensor offsets = OffsetsOf({5, 300, 0, 41}),
               x = Tensor::Random({346, kIn}, DType::kBF16, 5);
  const Tensor w = Tensor::Random({4, kIn, kOut}, DType::kBF16, 6);
  ForEachTarget([&] {
    const TestPacked packed(one.stream(), w, false, DType::kBF16);
    const Tensor y1({346, kOut}), y2({346, kOut}), y3({346, kOut});
    GroupedMatmul(one.stream(), {.x = x, .w = packed.matrix, .offsets = offsets, .y = y1});
    GroupedMatmul(two.stream(), {.x = x, .w = packed.matrix, .offsets = offsets, .y = y2});
    GroupedMatmul(three.stream(), {.x = x, .w = packed.matrix, .offsets = offsets, .y = y3});
    EXPECT_TRUE(Same(y2, y1));
    EXPECT_TRUE(Same(y3, y1));
  });
}

TEST(GroupedWeightGradient, AgreesWithTheReference) {
  TestDevice device(2);
  for (const auto& counts : kSplits) {
    const int64_t tokens = TokensOf(counts), experts = static_cast<int64_t>(counts.size());
    const Tensor offsets = OffsetsOf(counts);
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      const Tensor dy = Tensor::Random({tokens, kOut}, dtype, 7, -1, 1, 3);
      const Tensor x = Tensor::Random({tokens, kIn}, dtype, 8);
      const Tensor start = Tensor::Random({experts, kOut, kIn}, DType::kF32, 9);
      const Tensor expected = start.Clone(), magnitude = Absolute(start);
      reference::GroupedWeightGradient({dy, x, offsets, expected});
      reference::GroupedWeightGradient({Absolute(dy), Absolute(x), offsets, magnitude});
      ForEachTarget([&] {
        const Tensor dw = start.Clone();
        GroupedWeightGradient(device.stream(), {.dy = dy, .x = x, .offsets = offsets, .dw = dw});
        EXPECT_TRUE(
            Near(dw, expected,
                 {.magnitude = &magnitude,
                  .magnitude_factor = static_cast<double>(tokens + 3) * testing::kF32Rounding}));
      });
    }
  }
}

TEST(GroupedWeightGradient, AnExpertWithoutTokensIsNotTouched) {
  TestDevice device(2);
  const Tensor offsets = OffsetsOf({3, 0, 4});
  const Tensor dy = Tensor::Random({7, 5}, DType::kF32, 10);
  const Tensor x = Tensor::Random({7, 6}, DType::kF32, 11);
  ForEachTarget([&] {
    const Tensor dw({3, 5, 6});  // -0 would become 0 if even a 0 were added
    for (int64_t i = 0; i < 90; ++i) dw.SetAt(i, -0.0);
    GroupedWeightGradient(device.stream(), {.dy = dy, .x = x, .offsets = offsets, .dw = dw});
    for (int64_t i = 0; i < 90; ++i) {
      EXPECT_EQ(dw.At(i) == 0.0 && std::signbit(dw.At(i)), i >= 30 && i < 60) << i;
    }
  });
}

// Each expert's gradient is that of its own rows, whatever the others hold.
TEST(GroupedWeightGradient, EqualsOneProductPerExpertAndIgnoresThreads) {
  TestDevice device(2), three(3);
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor offsets = OffsetsOf({17, 600, 31});
    const Tensor dy = Tensor::Random({648, kOut}, dtype, 12);
    const Tensor x = Tensor::Random({648, kIn}, dtype, 13);
    ForEachTarget([&] {
      const Tensor dw({3, kOut, kIn}), again({3, kOut, kIn});
      GroupedWeightGradient(device.stream(), {.dy = dy, .x = x, .offsets = offsets, .dw = dw});
      GroupedWeightGradient(three.stream(), {.dy = dy, .x = x, .offsets = offsets, .dw = again});
      EXPECT_TRUE(Same(again, dw));
      for (int64_t e = 0; e < 3; ++e) {
        const auto begin = static_cast<int64_t>(offsets.At(e));
        const auto count = static_cast<int64_t>(offsets.At(e + 1)) - begin;
        const Tensor one({kOut, kIn});
        Matmul(device.stream(), {.a = dy.view().Rows(begin, count),
                                 .b = x.view().Rows(begin, count),
                                 .c = one,
                                 .transpose_a = true,
                                 .accumulate = true});
        for (int64_t i = 0; i < kOut * kIn; ++i) ASSERT_EQ(one.At(i), dw.At(e * kOut * kIn + i));
      }
    });
  }
}

// Many experts are a task each, packed by the thread that multiplies; few are cut over threads.
TEST(GroupedWeightGradient, WholeExpertsAndPartsGiveTheSameBits) {
  TestDevice one(1), two(2), eight(8);
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor offsets = OffsetsOf({140, 0, 161, 240, 7, 230, 1, 200});  // 2 * 240 * 2 <= 979
    const Tensor dy = Tensor::Random({979, kOut}, dtype, 14);
    const Tensor x = Tensor::Random({979, kIn}, dtype, 15);
    ForEachTarget([&] {
      const Tensor by_one({8, kOut, kIn}), by_two({8, kOut, kIn}), by_eight({8, kOut, kIn});
      GroupedWeightGradient(one.stream(), {.dy = dy, .x = x, .offsets = offsets, .dw = by_one});
      GroupedWeightGradient(two.stream(), {.dy = dy, .x = x, .offsets = offsets, .dw = by_two});
      GroupedWeightGradient(eight.stream(), {.dy = dy, .x = x, .offsets = offsets, .dw = by_eight});
      EXPECT_TRUE(Same(by_two, by_one));
      EXPECT_TRUE(Same(by_eight, by_one));
    });
  }
}

}  // namespace
}  // namespace sluice::kernels
