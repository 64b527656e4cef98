#include "kernels/ops/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/reference/attention.h"
#include "tests/support/attention_tensors.h"
#include "tests/support/every_device.h"
#include "tests/support/finite_difference.h"
#include "tests/support/near.h"

namespace sluice::kernels {
namespace {

using testing::Bound;
using testing::Near;
using testing::Same;
using testing::Tensor;

struct Problem {
  std::vector<int> lengths;
  int64_t heads, kv_heads, d, v;
};

// One sequence and several, empty ones, one off the block of 64 and the strip of 32, grouped heads,
// widths that are odd and that fill no vector.
std::vector<Problem> Problems() {
  return {{{1}, 1, 1, 1, 1},
          {{5}, 2, 1, 3, 2},
          {{0, 17, 0, 1}, 2, 2, 16, 16},
          {{31, 33}, 4, 2, 48, 32},
          {{64, 65}, 2, 2, 48, 32},
          {{63, 130}, 3, 1, 24, 17},
          {{200}, 2, 1, 33, 40},
          {{97}, 1, 1, 192, 128},
          {{32, 32, 96}, 2, 2, 8, 5},
          {{70}, 1, 1, 208, 256},
          {{130, 3, 60}, 1, 1, 64, 64},
          {{5, 100}, 2, 1, 128, 128},
          {{65, 3}, 2, 1, 128, 128},
          {{64, 64}, 2, 1, 64, 64},
          {{40}, 8, 1, 64, 64},
          {{257}, 1, 1, 64, 64}};
}

Tensor StartsOf(const std::vector<int>& lengths) {
  Tensor starts({static_cast<int64_t>(lengths.size()) + 1}, DType::kI32);
  for (size_t s = 0; s < lengths.size(); ++s) {
    starts.SetAt(static_cast<int64_t>(s) + 1, starts.At(static_cast<int64_t>(s)) + lengths[s]);
  }
  return starts;
}

// Inputs, outputs and gradients of one problem in one dtype.
struct Case : testing::AttentionTensors {
  Case(const Problem& problem, DType dtype, int64_t padding = 0) {
    starts = StartsOf(problem.lengths);
    tokens = static_cast<int64_t>(starts.At(starts.num_elements() - 1));
    q = Tensor::Random({tokens, problem.heads, problem.d}, dtype, 1, -2, 2, padding);
    k = Tensor::Random({tokens, problem.kv_heads, problem.d}, dtype, 2, -2, 2, 2 * padding);
    v = Tensor::Random({tokens, problem.kv_heads, problem.v}, dtype, 3, -1, 1, 3 * padding);
    o = Tensor::Unwritten({tokens, problem.heads, problem.v}, dtype, padding);
    log_sum_exp =
        Tensor::Unwritten({tokens, problem.heads}, dtype == DType::kF64 ? dtype : DType::kF32);
    dout = Tensor::Random({tokens, problem.heads, problem.v}, dtype, 4, -1, 1, padding);
    dq = Tensor::Unwritten(q.shape(), dtype, padding);
    dk = Tensor::Unwritten(k.shape(), dtype, padding);
    dv = Tensor::Unwritten(v.shape(), dtype, padding);
    scale = 1.0f / std::sqrt(static_cast<float>(problem.d));
  }

  // The same inputs in another dtype.
  Case To(DType dtype) const {
    Case other = *this;
    other.q = q.To(dtype), other.k = k.To(dtype), other.v = v.To(dtype), other.o = o.To(dtype);
    other.log_sum_exp = log_sum_exp.To(dtype == DType::kF64 ? dtype : DType::kF32);
    other.dout = dout.To(dtype);
    other.dq = Tensor(q.shape(), dtype), other.dk = Tensor(k.shape(), dtype);
    other.dv = Tensor(v.shape(), dtype);
    return other;
  }

  int64_t tokens;
};

// Multiply-adds of the forward; its exponentials and exchanges count as much again, twice. Those of
// BF16 are parts of matrix instructions, and count a quarter.
double WorkOf(const Problem& problem, DType dtype) {
  double pairs = 0;
  for (int length : problem.lengths) pairs += 0.5 * length * length;
  return pairs * static_cast<double>(problem.heads * (problem.d + problem.v)) *
         (dtype == DType::kBF16 ? 0.25 : 1.0);
}

// Elements between rows: whole vectors where the width is one, so that both ways to load are used.
int64_t PaddingOf(const Problem& problem) { return problem.d % 16 == 0 ? 8 : 3; }

class AttentionTest : public testing::EveryDevice {
 protected:
  void Backward(Case& c) {
    c.scratch = Tensor::Unwritten(
        {static_cast<int64_t>(AttentionScratchBytes(
            stream(), c.tokens, c.q.shape()[1], c.k.shape()[1], c.q.shape()[2], c.v.shape()[2]))},
        DType::kU8);
    AttentionBackward(stream(), c.Backward());
  }
};
INSTANTIATE_ON_EVERY_DEVICE(AttentionTest);

// A score is a sum of d products of values in [-2, 2], times 1 / sqrt(d): its error is at most
// d u * 4 sqrt(d), u = 2^-24, and that is the relative error of e^score; the sums over keys and
// values of absolute value at most 1 add (keys + 10) u. BF16 targets also round the weights, by at
// most 2^-9 each.
double ForwardBound(const Problem& problem, DType dtype, int64_t tokens) {
  const double d = static_cast<double>(problem.d);
  const double f32 = (4 * d * std::sqrt(d) + 2 * static_cast<double>(tokens) + 20) * 0x1p-24;
  return f32 + (dtype == DType::kBF16 ? 0x1p-8 : 0.0);
}

TEST_P(AttentionTest, EqualsReference) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Problem& problem : Problems()) {
      if (IsTooMuchHere(3 * WorkOf(problem, dtype))) continue;
      const Case actual(problem, dtype, PaddingOf(problem));
      const Case expected = actual.To(DType::kF64);
      Attention(stream(), actual.Forward());
      Wait();
      reference::Attention(expected.Forward());
      const double bound = ForwardBound(problem, dtype, actual.tokens);
      EXPECT_TRUE(
          Near(actual.o, expected.o, {.absolute = bound, .relative = testing::OneUlp(dtype)}))
          << "d " << problem.d << " tokens " << actual.tokens << NameOf(dtype).data();
      EXPECT_TRUE(actual.o.PaddingIsUntouched());
      EXPECT_TRUE(Near(actual.log_sum_exp, expected.log_sum_exp,
                       {.absolute = bound, .relative = testing::OneUlp(DType::kF32)}));
    }
  }
}

// Gradients are sums over queries or keys of dS, whose terms are bounded by the same relative
// errors of P and by those of dP (a sum of v products): relative to the sums of absolute values.
// |P| <= 1 and sums to 1 over keys; |dP|, |delta| <= v; so |dS| <= 2 v scale P. dq sums P over keys
// (to 1), dk and dv over at most `tokens * heads / kv_heads` queries.
void ExpectGradientsNear(const Case& actual, const Case& expected, const Problem& problem) {
  const DType dtype = actual.q.dtype();
  const double group = static_cast<double>(problem.heads / problem.kv_heads);
  const double queries = static_cast<double>(actual.tokens) * group;
  const double rounding =
      ForwardBound(problem, dtype, actual.tokens) + (dtype == DType::kBF16 ? 0x1p-8 : 0.0);
  const double ds = 2 * static_cast<double>(problem.v) * static_cast<double>(actual.scale);
  const double ulp = testing::OneUlp(dtype);
  EXPECT_TRUE(Near(actual.dq, expected.dq, {.absolute = 2 * ds * rounding, .relative = ulp}));
  const double typical = 4 + std::sqrt(queries);  // of a sum of `queries` weights of random sign
  EXPECT_TRUE(Near(actual.dk, expected.dk, {.absolute = typical * ds * rounding, .relative = ulp}));
  EXPECT_TRUE(Near(actual.dv, expected.dv, {.absolute = typical * rounding, .relative = ulp}));
}

TEST_P(AttentionTest, BackwardEqualsReference) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Problem& problem : Problems()) {
      if (IsTooMuchHere(6 * WorkOf(problem, dtype))) continue;
      Case actual(problem, dtype, PaddingOf(problem));
      reference::Attention(actual.Forward());
      const Case expected = actual.To(DType::kF64);
      Backward(actual);
      Wait();
      reference::AttentionBackward(expected.Backward());
      ExpectGradientsNear(actual, expected, problem);
      EXPECT_TRUE(actual.dq.PaddingIsUntouched() && actual.dk.PaddingIsUntouched() &&
                  actual.dv.PaddingIsUntouched());
    }
  }
}

TEST_P(AttentionTest, SequenceDoesNotDependOnItsNeighbours) {
  struct Kind {
    DType dtype;
    int64_t d, v;
  };
  for (const Kind& kind :
       {Kind{DType::kF32, 48, 32}, Kind{DType::kBF16, 48, 32}, Kind{DType::kBF16, 64, 64}}) {
    Case together({{40, 70, 3}, 4, 2, kind.d, kind.v}, kind.dtype);
    Case alone({{70}, 4, 2, kind.d, kind.v}, kind.dtype);
    const auto copy = [&](const Tensor& from, const Tensor& to) {
      const int64_t width = from.shape().elements_per_row();
      for (int64_t i = 0; i < to.num_elements(); ++i) to.SetAt(i, from.At(40 * width + i));
    };
    copy(together.q, alone.q), copy(together.k, alone.k), copy(together.v, alone.v);
    copy(together.dout, alone.dout);
    Attention(stream(), together.Forward());
    Attention(stream(), alone.Forward());
    Backward(together);
    Backward(alone);
    Wait();
    const auto same = [&](const Tensor& whole, const Tensor& part) {
      Tensor cut(part.shape(), part.dtype());
      copy(whole, cut);
      return Same(part, cut);
    };
    EXPECT_TRUE(same(together.o, alone.o));
    EXPECT_TRUE(same(together.log_sum_exp, alone.log_sum_exp));
    EXPECT_TRUE(same(together.dq, alone.dq));
    EXPECT_TRUE(same(together.dk, alone.dk));
    EXPECT_TRUE(same(together.dv, alone.dv));
  }
}

// A weight of 0 times infinity would be no number.
TEST_P(AttentionTest, InfiniteValuesStayInTheirDocument) {
  for (const Problem& problem :
       std::vector<Problem>{{{70, 40}, 1, 1, 64, 64}, {{70, 40}, 1, 1, 16, 16}}) {
    Case test(problem, DType::kBF16);
    const auto spoil = [&](const Tensor& x) {
      for (int64_t i = 70 * problem.v; i < x.num_elements(); ++i) x.SetAt(i, INFINITY);
    };
    const auto expect_finite = [&](const Tensor& x) {
      for (int64_t i = 0; i < 70 * problem.v; ++i) ASSERT_TRUE(std::isfinite(x.At(i))) << i;
      EXPECT_FALSE(std::isfinite(x.At(70 * problem.v)));
    };
    spoil(test.v);
    Attention(stream(), test.Forward());
    Wait();
    expect_finite(test.o);
    spoil(test.q), spoil(test.k), spoil(test.dout);
    Backward(test);
    Wait();
    expect_finite(test.dq), expect_finite(test.dk), expect_finite(test.dv);
  }
}

TEST_P(AttentionTest, TokenDoesNotDependOnLaterOnes) {
  const Case longer({{150}, 2, 1, 48, 32}, DType::kF32),
      shorter({{101}, 2, 1, 48, 32}, DType::kF32);
  for (int64_t i = 0; i < shorter.q.num_elements(); ++i) shorter.q.SetAt(i, longer.q.At(i));
  for (int64_t i = 0; i < shorter.k.num_elements(); ++i) shorter.k.SetAt(i, longer.k.At(i));
  for (int64_t i = 0; i < shorter.v.num_elements(); ++i) shorter.v.SetAt(i, longer.v.At(i));
  Attention(stream(), longer.Forward());
  Attention(stream(), shorter.Forward());
  Wait();
  Tensor cut(shorter.o.shape());
  for (int64_t i = 0; i < cut.num_elements(); ++i) cut.SetAt(i, longer.o.At(i));
  EXPECT_TRUE(Same(shorter.o, cut));
}

TEST_P(AttentionTest, NonFiniteValuesShow) {
  const Case problem({{40}, 1, 1, 16, 16}, DType::kF32);
  problem.k.SetAt(5 * 16, std::nan(""));
  Attention(stream(), problem.Forward());
  Wait();
  for (int64_t t = 5; t < 40; ++t) EXPECT_TRUE(std::isnan(problem.o.At(t * 16))) << t;
}

// Large scores: only differences from the row's maximum are exponentiated.
TEST_P(AttentionTest, LargeScoresDoNotOverflow) {
  const Case actual({{70}, 1, 1, 16, 16}, DType::kF32);
  for (int64_t i = 0; i < actual.q.num_elements(); ++i) actual.q.SetAt(i, 100 * actual.q.At(i));
  const Case expected = actual.To(DType::kF64);
  Attention(stream(), actual.Forward());
  Wait();
  reference::Attention(expected.Forward());
  // Scores up to 100 * 2 * 2 * 16 / 4 = 1600, each off by 16 u of that.
  EXPECT_TRUE(Near(actual.o, expected.o, {.absolute = 2 * 1600 * 20 * 0x1p-24}));
}

// The maximum is over every key of a block, wherever it lies: one large score, at one key.
TEST_P(AttentionTest, OneLargeScoreDoesNotOverflow) {
  for (int64_t key : {0, 1, 30, 33, 63, 64, 69}) {
    const Case problem({{70}, 1, 1, 16, 16}, DType::kF32);
    for (int64_t i = 0; i < 70 * 16; ++i) {
      problem.q.SetAt(i, 100);
      problem.k.SetAt(i, i / 16 == key ? 10 : 0);
    }
    Attention(stream(), problem.Forward());
    Wait();
    // e^-4000 is 0: queries that see the key copy its value.
    for (int64_t t = key; t < 70; ++t) {
      for (int64_t i = 0; i < 16; ++i) {
        ASSERT_EQ(problem.o.At(t * 16 + i), problem.v.At(key * 16 + i)) << key << " at " << t;
      }
    }
  }
}

// More blocks of keys than any kernel holds at once, and maxima that rise from block to block, by
// another amount in each row: what was summed before is scaled down again and again.
TEST_P(AttentionTest, SumsOfManyBlocksAreScaledRowByRow) {
  const Problem problem = {{400}, 1, 1, 64, 64};
  const Case actual(problem, DType::kBF16);
  for (int64_t i = 0; i < actual.tokens * problem.d; ++i) {
    actual.k.SetAt(i, actual.k.At(i) * static_cast<double>(1 + i / problem.d / 100));
  }
  const Case expected = actual.To(DType::kF64);
  Attention(stream(), actual.Forward());
  Wait();
  reference::Attention(expected.Forward());
  const double bound = 4 * ForwardBound(problem, DType::kF32, actual.tokens) + 0x1p-8;
  EXPECT_TRUE(
      Near(actual.o, expected.o, {.absolute = bound, .relative = testing::OneUlp(DType::kBF16)}));
}

// The widths that Hopper has kernels for: more steps than these have stages, tiles that a diagonal
// or an end cuts in each way, and several query heads a key.
TEST_P(AttentionTest, GradientsOfManyBlocks) {
  for (const Problem& problem : std::vector<Problem>{{{260}, 1, 1, 64, 64},
                                                     {{128, 1, 193}, 4, 2, 64, 64},
                                                     {{129, 70}, 2, 1, 128, 128},
                                                     {{63, 135}, 2, 1, 192, 128}}) {
    Case actual(problem, DType::kBF16);
    reference::Attention(actual.Forward());
    const Case expected = actual.To(DType::kF64);
    Backward(actual);
    Wait();
    reference::AttentionBackward(expected.Backward());
    ExpectGradientsNear(actual, expected, problem);
  }
}

TEST(AttentionReferenceTest, GradientsAreFiniteDifferences) {
  for (const Problem& problem :
       std::vector<Problem>{{{1, 4, 0, 3}, 2, 1, 3, 2}, {{5}, 4, 2, 4, 3}}) {
    const Case test = Case(problem, DType::kF64);
    reference::Attention(test.Forward());
    reference::AttentionBackward(test.Backward());
    const Case copy = test;
    Tensor o(test.o.shape(), DType::kF64), log_sum_exp(test.log_sum_exp.shape(), DType::kF64);
    AttentionArgs args = test.Forward();
    args.o = o, args.log_sum_exp = log_sum_exp;
    const auto loss = [&] {
      reference::Attention(args);
      return testing::InnerProduct(o, test.dout);
    };
    const Bound bound = {.absolute = 1e-8, .relative = 1e-7};
    EXPECT_TRUE(Near(test.dq, testing::FiniteDifference(test.q, loss), bound));
    EXPECT_TRUE(Near(test.dk, testing::FiniteDifference(test.k, loss), bound));
    EXPECT_TRUE(Near(test.dv, testing::FiniteDifference(test.v, loss), bound));
  }
}

}  // namespace
}  // namespace sluice::kernels
