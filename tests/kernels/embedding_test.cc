#include "kernels/ops/embedding.h"

#include <gtest/gtest.h>

#include "kernels/core/cpu_stream.h"
#include "kernels/reference/embedding.h"
#include "tests/support/every_device.h"
#include "tests/support/near.h"
#include "tests/support/shapes.h"

namespace sluice::kernels {
namespace {

using testing::PaddingOf;
using testing::Same;
using testing::Tensor;

class EmbeddingTest : public testing::EveryDevice {};
INSTANTIATE_ON_EVERY_DEVICE(EmbeddingTest);

TEST_P(EmbeddingTest, CopiesRows) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [tokens, width] : testing::UglyMatrices()) {
      const Tensor table = Tensor::Random({11, width}, dtype, 1, -1, 1, PaddingOf(width));
      const Tensor ids = Tensor::RandomIntegers({tokens}, DType::kI32, 2, 0, 10);
      const Tensor y = Tensor::Unwritten({tokens, width}, dtype, PaddingOf(width));
      const Tensor expected({tokens, width}, dtype);
      Embedding(stream(), {.tokens = ids, .table = table, .y = y});
      Wait();
      reference::Embedding({.tokens = ids, .table = table, .y = expected});
      ASSERT_TRUE(Same(y.To(dtype), expected));
      ASSERT_TRUE(y.PaddingIsUntouched());
    }
  }
}

// Each row of dtable is a sum in token order in FP32, rounded after every term: the same loop in
// float gives the same bits, on any number of threads.
TEST_P(EmbeddingTest, BackwardAddsInTokenOrder) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [tokens, width] : testing::UglyMatrices()) {
      const Tensor dy = Tensor::Random({tokens, width}, dtype, 1, -1, 1, PaddingOf(width));
      const Tensor ids = Tensor::RandomIntegers({tokens}, DType::kI32, 2, 0, 3);
      const Tensor dtable = Tensor::Random({5, width}, DType::kF32, 3);
      const Tensor expected = dtable.Clone();
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t h = 0; h < width; ++h) {
          const int64_t at = static_cast<int64_t>(ids.At(t)) * width + h;
          expected.SetAt(
              at, static_cast<float>(expected.At(at)) + static_cast<float>(dy.At(t * width + h)));
        }
      }
      EmbeddingBackward(stream(), {.dy = dy, .tokens = ids, .dtable = dtable});
      Wait();
      ASSERT_TRUE(Same(dtable, expected)) << tokens << " x " << width;
    }
  }
}

// More tokens than a GPU's block looks through at once, and columns of several blocks.
TEST_P(EmbeddingTest, BackwardFindsATokenFarAway) {
  constexpr int64_t kTokens = 2200, kWidth = 8;
  const Tensor dy = Tensor::RandomIntegers({kTokens, kWidth}, DType::kF32, 1, -9, 9);
  const Tensor ids({kTokens}, DType::kI32), dtable({kTokens, kWidth});
  const Tensor expected({kTokens, kWidth}), wide({3, 1100}), wide_table({2, 1100});
  for (int64_t t = 0; t < kTokens; ++t) {
    const int64_t token = t % 2100 == 70 ? 5 : t;  // three places, two of them far apart
    ids.SetAt(t, static_cast<double>(token));
    for (int64_t h = 0; h < kWidth; ++h) {
      const int64_t at = token * kWidth + h;
      expected.SetAt(at, expected.At(at) + dy.At(t * kWidth + h));
    }
  }
  const Tensor few = Tensor::Of({1, 0, 1});
  for (int64_t i = 0; i < wide.num_elements(); ++i) wide.SetAt(i, static_cast<double>(i));
  EmbeddingBackward(stream(), {.dy = dy, .tokens = ids, .dtable = dtable});
  EmbeddingBackward(stream(), {.dy = wide, .tokens = few, .dtable = wide_table});
  Wait();
  EXPECT_TRUE(Same(dtable, expected));
  for (int64_t h = 0; h < 1100; ++h) {
    ASSERT_EQ(wide_table.At(h), wide.At(1100 + h));
    ASSERT_EQ(wide_table.At(1100 + h), wide.At(h) + wide.At(2200 + h));
  }
}

TEST(EmbeddingReferenceTest, BackwardIsTheAdjoint) {
  const Tensor table = Tensor::RandomIntegers({7, 3}, DType::kF64, 1, -9, 9);
  const Tensor ids = Tensor::RandomIntegers({20}, DType::kI32, 2, 0, 6);
  const Tensor dy = Tensor::RandomIntegers({20, 3}, DType::kF64, 3, -9, 9);
  const Tensor y({20, 3}, DType::kF64), dtable({7, 3}, DType::kF64);
  reference::Embedding({.tokens = ids, .table = table, .y = y});
  reference::EmbeddingBackward({.dy = dy, .tokens = ids, .dtable = dtable});
  double forward = 0, backward = 0;
  for (int64_t i = 0; i < y.num_elements(); ++i) forward += y.At(i) * dy.At(i);
  for (int64_t i = 0; i < table.num_elements(); ++i) backward += table.At(i) * dtable.At(i);
  EXPECT_EQ(forward, backward);
}

TEST(EmbeddingDeathTest, TokenOutsideTheTable) {
  auto run = [] {
    ThreadPool pool(1);
    CpuStream stream(CpuStreamMode::kInline, pool);
    const Tensor table({4, 2}), y({1, 2});
    Embedding(stream, {.tokens = Tensor::Of({4}), .table = table, .y = y});
  };
  EXPECT_DEATH(run(), "index 4");
}

}  // namespace
}  // namespace sluice::kernels
