#include "trainer/loop/sample_token.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace sluice::trainer {
namespace {

SamplingOptions Options(double temperature, double top_p, uint64_t seed = 1) {
  SamplingOptions options;
  options.temperature = temperature;
  options.top_p = top_p;
  options.seed = seed;
  return options;
}

// Tokens of probability 1/2, 1/4, 1/8, 1/8 at temperature 1, not in order.
const std::vector<float> kLogits = {std::log(0.125f), std::log(0.5f), std::log(0.125f),
                                    std::log(0.25f)};

TEST(SampleToken, TemperatureZeroTakesTheLargestAndTheLowerOfTwo) {
  EXPECT_EQ(SampleToken(kLogits, Options(0, 0.1), 3), 1);
  const std::vector<float> tie = {-1, 2, 0, 2};
  for (int64_t position = 0; position < 20; ++position)
    EXPECT_EQ(SampleToken(tie, Options(0, 1), position), 1);
}

TEST(SampleToken, IsAFunctionOfSeedAndPosition) {
  int differs_by_seed = 0, differs_by_position = 0;
  for (int64_t position = 0; position < 100; ++position) {
    const int32_t token = SampleToken(kLogits, Options(1, 1), position);
    EXPECT_EQ(token, SampleToken(kLogits, Options(1, 1), position));
    differs_by_seed += token != SampleToken(kLogits, Options(1, 1, 2), position);
    differs_by_position += token != SampleToken(kLogits, Options(1, 1), position + 1);
  }
  EXPECT_GT(differs_by_seed, 20);
  EXPECT_GT(differs_by_position, 20);
}

std::vector<int> Draw(const std::vector<float>& logits, const SamplingOptions& options, int count) {
  std::vector<int> drawn(logits.size());
  for (int64_t position = 0; position < count; ++position)
    ++drawn[SampleToken(logits, options, position)];
  return drawn;
}

// n draws of probability p: mean n p, deviation sqrt(n p (1 - p)); five deviations.
void ExpectShares(const std::vector<int>& drawn, const std::vector<double>& shares) {
  int total = 0;
  for (int count : drawn) total += count;
  for (size_t i = 0; i < shares.size(); ++i) {
    EXPECT_NEAR(drawn[i], total * shares[i],
                5 * std::sqrt(total * shares[i] * (1 - shares[i])) + 1e-9)
        << "token " << i;
  }
}

TEST(SampleToken, DrawsInProportionToTheProbabilities) {
  ExpectShares(Draw(kLogits, Options(1, 1), 8000), {0.125, 0.5, 0.125, 0.25});
}

TEST(SampleToken, TemperatureTwoFlattensByTheSquareRoot) {
  const double total = std::sqrt(0.5) + 2 * std::sqrt(0.125) + 0.5;
  ExpectShares(
      Draw(kLogits, Options(2, 1), 8000),
      {std::sqrt(0.125) / total, std::sqrt(0.5) / total, std::sqrt(0.125) / total, 0.5 / total});
}

TEST(SampleToken, TopPKeepsTheSmallestSetThatReachesIt) {
  ExpectShares(Draw(kLogits, Options(1, 0.4), 500), {0, 1, 0, 0});
  ExpectShares(Draw(kLogits, Options(1, 0.7), 4000), {0, 2 / 3.0, 0, 1 / 3.0});
  // Of the two that tie the lower one fills the set.
  ExpectShares(Draw(kLogits, Options(1, 0.8), 4000), {1 / 7.0, 4 / 7.0, 0, 2 / 7.0});
  // No set is empty.
  ExpectShares(Draw(kLogits, Options(1, 0), 100), {0, 1, 0, 0});
}

TEST(SampleToken, LargeAndInfiniteLogitsDoNotOverflow) {
  const std::vector<float> logits = {3e38f, -3e38f, 3e38f, -std::numeric_limits<float>::infinity()};
  ExpectShares(Draw(logits, Options(0.1, 1), 2000), {0.5, 0, 0.5, 0});
  EXPECT_EQ(SampleToken(std::vector<float>{-5}, Options(1, 0.9), 0), 0);
}

// A model that has diverged still gives a token of the vocabulary.
TEST(SampleToken, NotANumberGivesAToken) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const double temperature : {0.0, 1.0}) {
    for (const std::vector<float>& logits :
         {std::vector<float>{nan, nan, nan}, {0, nan, 1}, {nan, 0, 1}, {0, 1, nan}}) {
      const int32_t token = SampleToken(logits, Options(temperature, 0.9), 5);
      EXPECT_GE(token, 0);
      EXPECT_LT(token, 3);
    }
  }
}

}  // namespace
}  // namespace sluice::trainer
