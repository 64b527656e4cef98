// Bits of a matrix product: an element depends on its row, its column and K, on nothing else.
#include <gtest/gtest.h>

#include <vector>

#include "kernels/ops/matmul.h"
#include "tests/kernels/matmul_testing.h"
#include "tests/support/near.h"
#include "tests/support/tensor.h"

namespace sluice::kernels {
namespace {

using testing::Same;
using testing::Tensor;

// Rows `picks` of t, in that order.
Tensor PickRows(const Tensor& t, const std::vector<int64_t>& picks) {
  const int64_t width = t.shape()[1];
  const Tensor picked({static_cast<int64_t>(picks.size()), width}, t.dtype());
  for (size_t i = 0; i < picks.size(); ++i) {
    for (int64_t j = 0; j < width; ++j) {
      picked.SetAt(static_cast<int64_t>(i) * width + j, t.At(picks[i] * width + j));
    }
  }
  return picked;
}

Tensor Transposed(const Tensor& t) {
  const int64_t rows = t.shape()[0], columns = t.shape()[1];
  const Tensor transposed({columns, rows}, t.dtype());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) transposed.SetAt(j * rows + i, t.At(i * columns + j));
  }
  return transposed;
}

Tensor Product(TestDevice& device, const Tensor& a, const Tensor& b) {
  const Tensor c({a.shape()[0], b.shape()[1]}, DType::kF32);
  Matmul(device.stream(), {.a = a, .b = b, .c = c});
  return c;
}

class Invariance : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, Invariance, ::testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& info) { return std::string(NameOf(info.param)); });

constexpr int64_t kRows = 53, kColumns = 77;
const int64_t kDepths[] = {1, 96, 511, 1031};  // the last: several blocks of K in either type

TEST_P(Invariance, RowsMayBePermutedDuplicatedAndRemoved) {
  TestDevice device(2);
  for (int64_t k : kDepths) {
    const Tensor a = Tensor::Random({kRows, k}, GetParam(), 1);
    const Tensor b = Tensor::Random({k, kColumns}, GetParam(), 2);
    ForEachTarget([&] {
      const Tensor c = Product(device, a, b);
      const std::vector<std::vector<int64_t>> choices = {
          {0}, {52}, {17, 3}, {5, 5, 5, 5, 5}, {52, 40, 39, 2, 1, 0, 51, 0, 7, 7, 11, 12, 13, 50}};
      for (const auto& picks : choices) {
        EXPECT_TRUE(Same(Product(device, PickRows(a, picks), b), PickRows(c, picks)))
            << picks.size() << " rows of K " << k;
      }
    });
  }
}

TEST_P(Invariance, ColumnsMayBePermutedDuplicatedAndRemoved) {
  TestDevice device(2);
  for (int64_t k : kDepths) {
    const Tensor a = Tensor::Random({kRows, k}, GetParam(), 3);
    const Tensor b = Tensor::Random({k, kColumns}, GetParam(), 4);
    ForEachTarget([&] {
      const Tensor c = Product(device, a, b);
      const std::vector<std::vector<int64_t>> choices = {
          {76}, {33, 3, 3, 60}, {31, 32, 33, 15, 16, 17}};
      for (const auto& picks : choices) {
        const Tensor fewer = Transposed(PickRows(Transposed(b), picks));
        const Tensor wanted = Transposed(PickRows(Transposed(c), picks));
        EXPECT_TRUE(Same(Product(device, a, fewer), wanted)) << picks.size() << " of K " << k;
      }
    });
  }
}

TEST_P(Invariance, ThreadsDoNotMatter) {
  TestDevice one(1), two(2), three(3);
  for (const auto& [m, n, k] :
       {std::array<int64_t, 3>{250, 70, 96}, {5, 900, 1031}, {700, 33, 40}, {130, 421, 70}}) {
    const Tensor a = Tensor::Random({m, k}, GetParam(), 5),
                 b = Tensor::Random({k, n}, GetParam(), 6);
    ForEachTarget([&] {
      const Tensor c = Product(one, a, b);
      EXPECT_TRUE(Same(Product(two, a, b), c));
      EXPECT_TRUE(Same(Product(three, a, b), c));
    });
  }
}

TEST_P(Invariance, StorageOrderAndStridesDoNotMatter) {
  TestDevice device(2);
  for (int64_t k : kDepths) {
    const Tensor a = Tensor::Random({kRows, k}, GetParam(), 7);
    const Tensor b = Tensor::Random({k, kColumns}, GetParam(), 8);
    const Tensor wide_a = Tensor::Random({kRows, k}, GetParam(), 7, -1, 1, 13);
    ForEachTarget([&] {
      const Tensor c = Product(device, a, b);
      EXPECT_TRUE(Same(Product(device, wide_a, b), c));
      const Tensor turned({kRows, kColumns}, DType::kF32);
      Matmul(device.stream(), {.a = Transposed(a),
                               .b = Transposed(b),
                               .c = turned,
                               .transpose_a = true,
                               .transpose_b = true});
      EXPECT_TRUE(Same(turned, c));
    });
  }
}

TEST_P(Invariance, AccumulatingAddsTheFinishedSum) {
  TestDevice device(2);
  for (int64_t k : kDepths) {
    const Tensor a = Tensor::Random({kRows, k}, GetParam(), 9);
    const Tensor b = Tensor::Random({k, kColumns}, GetParam(), 10);
    ForEachTarget([&] {
      const Tensor sum = Product(device, a, b);
      const Tensor c = Tensor::Random({kRows, kColumns}, DType::kF32, 11), wanted = c.Clone();
      for (int64_t i = 0; i < c.num_elements(); ++i) {
        wanted.SetAt(i, static_cast<float>(c.At(i)) + static_cast<float>(sum.At(i)));
      }
      Matmul(device.stream(), {.a = a, .b = b, .c = c, .accumulate = true});
      EXPECT_TRUE(Same(c, wanted));
    });
  }
}

TEST(MatmulBits, BF16ResultIsTheF32ResultRoundedOnce) {
  TestDevice device(2);
  const Tensor a = Tensor::Random({kRows, 1031}, DType::kBF16, 12);
  const Tensor b = Tensor::Random({1031, kColumns}, DType::kBF16, 13);
  ForEachTarget([&] {
    const Tensor c({kRows, kColumns}, DType::kBF16);
    Matmul(device.stream(), {.a = a, .b = b, .c = c});
    EXPECT_TRUE(Same(c, Product(device, a, b).To(DType::kBF16)));
  });
}

}  // namespace
}  // namespace sluice::kernels
