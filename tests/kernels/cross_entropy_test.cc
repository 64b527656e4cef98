#include "kernels/ops/cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/reference/cross_entropy.h"
#include "tests/support/every_device.h"
#include "tests/support/finite_difference.h"
#include "tests/support/near.h"
#include "tests/support/shapes.h"

namespace sluice::kernels {
namespace {

using testing::Near;
using testing::OneUlp;
using testing::Same;
using testing::Tensor;

class CrossEntropyTest : public testing::EveryDevice {};
INSTANTIATE_ON_EVERY_DEVICE(CrossEntropyTest);

Tensor SomeTargets(int64_t rows, int64_t vocabulary) {  // about one in five masked
  Tensor targets =
      Tensor::RandomIntegers({rows}, DType::kI32, 7, 0, static_cast<int>(vocabulary) - 1);
  for (int64_t c = 2; c < rows; c += 5) targets.SetAt(c, -1);
  return targets;
}

// Subtracting the maximum (at most 20 away) rounds by 20 u, exp by 2e-7, the positive sum of
// `vocabulary` terms in 4 lanes or more by vocabulary / 4 u: relative to each probability, and
// absolute in the loss, which is itself rounded.
double Relative(int64_t vocabulary) {
  return 2 * (20 * 0x1p-24 + 2e-7) + (static_cast<double>(vocabulary) / 4 + 8) * 0x1p-24;
}

TEST_P(CrossEntropyTest, EqualsReference) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [rows, vocabulary] : testing::UglyMatrices()) {
      const Tensor logits =
          Tensor::Random({rows, vocabulary}, DType::kF32, 1, -10, 10, dtype == DType::kF32 ? 0 : 3);
      const Tensor targets = SomeTargets(rows, vocabulary);
      const Tensor loss({rows}), expected_loss({rows}, DType::kF64);
      const Tensor dlogits = Tensor::Unwritten({rows, vocabulary}, dtype, 2);
      const Tensor expected({rows, vocabulary}, DType::kF64);
      CrossEntropyArgs args = {
          .logits = logits, .targets = targets, .loss = loss, .dlogits = dlogits, .scale = 0.25f};
      CrossEntropy(stream(), args);
      Wait();
      reference::CrossEntropy({.logits = logits,
                               .targets = targets,
                               .loss = expected_loss,
                               .dlogits = expected,
                               .scale = 0.25f});
      const double bound = Relative(vocabulary);
      ASSERT_TRUE(Near(loss, expected_loss, {.absolute = bound, .relative = 0x1p-23}))
          << rows << " x " << vocabulary;
      // At the target p - 1 keeps the absolute error of p.
      ASSERT_TRUE(
          Near(dlogits, expected, {.absolute = 0.25 * bound, .relative = bound + OneUlp(dtype)}));
      ASSERT_TRUE(dlogits.PaddingIsUntouched());
      args.dlogits = {};
      const Tensor loss_alone({rows});
      args.loss = loss_alone;
      CrossEntropy(stream(), args);
      Wait();
      ASSERT_TRUE(Same(loss_alone, loss));
      if (dtype != DType::kF32) continue;
      args.dlogits = logits;
      CrossEntropy(stream(), args);
      Wait();
      ASSERT_TRUE(Same(logits.To(dtype), dlogits.To(dtype))) << "in place";
    }
  }
}

TEST_P(CrossEntropyTest, MaskedRowsAreZeroWhateverTheyHold) {
  const Tensor targets = Tensor::Of({-1, 4});
  const Tensor logits = Tensor::Random({2, 40}, DType::kF32, 1), loss({2});
  logits.SetAt(3, std::nan(""));
  const Tensor dlogits = Tensor::Random({2, 40}, DType::kF32, 2);
  CrossEntropy(stream(), {.logits = logits, .targets = targets, .loss = loss, .dlogits = dlogits});
  Wait();
  EXPECT_EQ(loss.At(0), 0);
  EXPECT_GT(loss.At(1), 0);
  for (int64_t v = 0; v < 40; ++v) EXPECT_EQ(dlogits.At(v), 0);
}

TEST_P(CrossEntropyTest, NonFiniteLogitsShow) {
  const Tensor targets = Tensor::Of({4});
  for (double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (int64_t place : {0, 17, 69}) {
      const Tensor logits = Tensor::Random({1, 70}, DType::kF32, 1), loss({1});
      logits.SetAt(place, bad);
      CrossEntropy(stream(), {.logits = logits, .targets = targets, .loss = loss});
      Wait();
      EXPECT_FALSE(std::isfinite(loss.At(0))) << bad << " at " << place;
    }
  }
}

// A logit far above the others: the loss is tiny but keeps its relative accuracy.
TEST_P(CrossEntropyTest, ConfidentAndHopelessPredictions) {
  const Tensor targets = Tensor::Of({5, 6});
  const Tensor logits({2, 33}), loss({2}), dlogits({2, 33});
  logits.SetAt(5, 100);
  logits.SetAt(33 + 5, 1000);
  CrossEntropy(stream(), {.logits = logits, .targets = targets, .loss = loss, .dlogits = dlogits});
  Wait();
  EXPECT_EQ(loss.At(0), 0);  // 32 e^-100
  EXPECT_EQ(loss.At(1), 1000);
  EXPECT_EQ(dlogits.At(33 + 5), 1);
  EXPECT_EQ(dlogits.At(33 + 6), -1);
}

TEST_P(CrossEntropyTest, RowDoesNotDependOnTheChunk) {
  const Tensor logits = Tensor::Random({50, 777}, DType::kF32, 1, -5, 5);
  const Tensor targets = SomeTargets(50, 777), loss({50}), one({1});
  CrossEntropy(stream(), {.logits = logits, .targets = targets, .loss = loss});
  for (int64_t c = 0; c < 50; ++c) {
    CrossEntropy(
        stream(),
        {.logits = logits.view().Rows(c, 1), .targets = targets.view().Rows(c, 1), .loss = one});
    Wait();
    ASSERT_EQ(one.At(0), loss.At(c)) << c;
  }
}

TEST(CrossEntropyReferenceTest, GradientIsAFiniteDifference) {
  const Tensor logits = Tensor::Random({3, 7}, DType::kF64, 1, -3, 3);
  const Tensor targets = Tensor::Of({2, -1, 6});
  const Tensor loss({3}, DType::kF64), dlogits({3, 7}, DType::kF64);
  reference::CrossEntropy(
      {.logits = logits, .targets = targets, .loss = loss, .dlogits = dlogits, .scale = 0.5f});
  const auto total = [&] {
    reference::CrossEntropy({.logits = logits, .targets = targets, .loss = loss});
    return 0.5 * (loss.At(0) + loss.At(1) + loss.At(2));
  };
  EXPECT_TRUE(Near(dlogits, testing::FiniteDifference(logits, total), {.absolute = 1e-9}));
}

}  // namespace
}  // namespace sluice::kernels
