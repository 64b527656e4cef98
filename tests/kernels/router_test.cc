#include "kernels/ops/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "kernels/core/exp.h"
#include "kernels/reference/router.h"
#include "tests/support/every_device.h"
#include "tests/support/finite_difference.h"
#include "tests/support/near.h"
#include "tests/support/source_path.h"

namespace sluice::kernels {
namespace {

using testing::Near;
using testing::Same;
using testing::Tensor;

class RouterTest : public testing::EveryDevice {
 protected:
  void Balance(BalanceLossArgs args) {
    const Tensor scratch = Tensor::Unwritten({static_cast<int64_t>(BalanceLossScratchBytes(
                                                 stream(), args.logits.extent(0), args.config))},
                                             DType::kU8);
    args.scratch = scratch;
    BalanceLoss(stream(), args);
    Wait();
  }
};
INSTANTIATE_ON_EVERY_DEVICE(RouterTest);

// The outputs of Route for `tokens` tokens.
struct Routed {
  Routed(const RouterConfig& config, int64_t tokens, DType dtype = DType::kF32)
      : scores(Tensor::Unwritten({tokens, config.num_experts}, dtype)),
        expert_of(Tensor::Unwritten({tokens, config.experts_per_token}, DType::kI32)),
        weights(Tensor::Unwritten({tokens, config.experts_per_token}, dtype)),
        counts({config.num_experts}, DType::kI64) {}
  RouteArgs Args(const RouterConfig& config, const Tensor& logits, const Tensor& bias) const {
    return {.config = config,
            .logits = logits,
            .bias = bias,
            .scores = scores,
            .expert_of = expert_of,
            .weights = weights,
            .counts = counts};
  }
  Tensor scores, expert_of, weights, counts;
};

std::vector<RouterConfig> Configs() {
  return {
      {.num_experts = 1, .experts_per_token = 1},
      {.num_experts = 7, .experts_per_token = 7, .scoring_func = ScoringFunc::kSoftmax},
      {.num_experts = 16, .experts_per_token = 4, .routed_scaling_factor = 2.5f},
      {.num_experts = 17, .experts_per_token = 2, .norm_topk_prob = false},
      {.num_experts = 64,
       .experts_per_token = 6,
       .scoring_func = ScoringFunc::kSoftmax,
       .norm_topk_prob = false},
      {.num_experts = 24,
       .experts_per_token = 3,
       .n_group = 6,
       .topk_group = 2,
       .group_score = GroupScore::kTopTwoSum},
      {.num_experts = 256,
       .experts_per_token = 8,
       .n_group = 8,
       .topk_group = 4,
       .group_score = GroupScore::kTopTwoSum,
       .routed_scaling_factor = 2.5f},
      {.num_experts = 40,
       .experts_per_token = 5,
       .n_group = 5,
       .topk_group = 1,
       .scoring_func = ScoringFunc::kSoftmax,
       .group_score = GroupScore::kMax,
       .norm_topk_prob = false,
       .routed_scaling_factor = 16.0f},
      {.num_experts = 6,
       .experts_per_token = 3,
       .n_group = 6,
       .topk_group = 3,
       .group_score = GroupScore::kTopTwoSum},
  };
}

// Scores, off by at most 2e-7 + 4 u relative, plus E / 4 u for the sum of a softmax. Indices agree
// because no two of these random scores lie within that of each other.
TEST_P(RouterTest, EqualsReference) {
  for (const RouterConfig& config : Configs()) {
    for (int64_t tokens : {0, 1, 37}) {
      const Tensor logits = Tensor::Random({tokens, config.num_experts}, DType::kF32, 1, -8, 8);
      const Tensor bias = Tensor::Random({config.num_experts}, DType::kF32, 2, -0.2, 0.2);
      const Routed actual(config, tokens), expected(config, tokens, DType::kF64);
      Route(stream(), actual.Args(config, logits, bias));
      Wait();
      reference::Route(expected.Args(config, logits, bias));
      const double relative = 2 * (2e-7 + 16 * 0x1p-24) + (config.num_experts / 4.0 + 8) * 0x1p-24;
      ASSERT_TRUE(Near(actual.scores, expected.scores, {.relative = relative}));
      ASSERT_TRUE(Same(actual.expert_of, expected.expert_of)) << config.num_experts;
      ASSERT_TRUE(Near(actual.weights, expected.weights, {.relative = 3 * relative}));
      ASSERT_TRUE(Same(actual.counts, expected.counts));
    }
  }
}

// kernels/ops/router.h: the same bits on every backend.
TEST_P(RouterTest, ScoresHaveTheBitsOfTheirDefinition) {
  for (const ScoringFunc scoring : {ScoringFunc::kSigmoid, ScoringFunc::kSoftmax}) {
    for (const int experts : {1, 5, 31, 32, 33, 64, 160, 250}) {
      const RouterConfig config = {
          .num_experts = experts, .experts_per_token = 1, .scoring_func = scoring};
      const Tensor logits = Tensor::Random({9, experts}, DType::kF32, 3, -8, 8);
      const Routed actual(config, 9);
      const Tensor bias({experts}), wanted({9, experts});
      Route(stream(), actual.Args(config, logits, bias));
      Wait();
      for (int64_t t = 0; t < 9; ++t) {
        const float* x = logits.view().data<float>() + t * logits.view().row_stride();
        const float most = *std::max_element(x, x + experts);
        std::vector<float> sums(32, 0.0f);
        for (int i = 0; i < experts; ++i) sums[static_cast<size_t>(i % 32)] += Exp(x[i] - most);
        for (size_t half = 16; half > 0; half /= 2) {
          for (size_t j = 0; j < half; ++j) sums[j] += sums[j + half];
        }
        for (int i = 0; i < experts; ++i) {
          const float score =
              scoring == ScoringFunc::kSigmoid ? Sigmoid(x[i]) : Exp(x[i] - most) / sums[0];
          wanted.SetAt(t * experts + i, static_cast<double>(score));
        }
      }
      ASSERT_TRUE(Same(actual.scores, wanted)) << experts << " experts";
    }
  }
}

TEST_P(RouterTest, TiesGoToTheLowerIndexAndExpertsAscend) {
  const RouterConfig config = {.num_experts = 40, .experts_per_token = 3};
  const Tensor logits({1, 40}), bias({40});
  for (int64_t i : {7, 9, 21, 30}) logits.SetAt(i, 2);
  const Routed routed(config, 1);
  Route(stream(), routed.Args(config, logits, bias));
  Wait();
  EXPECT_TRUE(Same(routed.expert_of, Tensor::Of({7, 9, 21}, DType::kI32, {1, 3})));
}

// Of two equal scores the higher index gives way to a later, larger one.
TEST_P(RouterTest, ATieIsBrokenForTheLowerIndexWhenALargerScoreFollows) {
  const RouterConfig config = {.num_experts = 40, .experts_per_token = 2};
  const Tensor logits({1, 40}), bias({40});
  for (int64_t i : {7, 9}) logits.SetAt(i, 1);
  logits.SetAt(30, 2);
  const Routed routed(config, 1);
  Route(stream(), routed.Args(config, logits, bias));
  Wait();
  EXPECT_TRUE(Same(routed.expert_of, Tensor::Of({7, 30}, DType::kI32, {1, 2})));
}

// Selection scores may be negative under a bias: a dropped group must not win with zeros.
TEST_P(RouterTest, DroppedGroupsNeverWin) {
  const RouterConfig config = {.num_experts = 8,
                               .experts_per_token = 2,
                               .n_group = 4,
                               .topk_group = 1,
                               .group_score = GroupScore::kTopTwoSum};
  const Tensor logits = Tensor::Random({20, 8}, DType::kF32, 1), bias({8});
  for (int64_t i = 0; i < 8; ++i) bias.SetAt(i, i / 2 == 2 ? -5 : -6);
  const Routed routed(config, 20);
  Route(stream(), routed.Args(config, logits, bias));
  Wait();
  for (int64_t t = 0; t < 20; ++t) {
    EXPECT_EQ(routed.expert_of.At(2 * t), 4);
    EXPECT_EQ(routed.expert_of.At(2 * t + 1), 5);
  }
}

TEST_P(RouterTest, CountsAddUp) {
  const RouterConfig config = {.num_experts = 16, .experts_per_token = 4};
  const Tensor logits = Tensor::Random({1000, 16}, DType::kF32, 1);
  const Routed routed(config, 1000);
  RouteArgs args = routed.Args(config, logits, Tensor({16}));
  args.bias = {};
  Route(stream(), args);
  Route(stream(), args);
  Wait();
  double total = 0;
  for (int64_t i = 0; i < 16; ++i) total += routed.counts.At(i);
  EXPECT_EQ(total, 2 * 1000 * 4);
}

// A NaN still routes somewhere legal, and shows in the weights.
TEST_P(RouterTest, NonFiniteLogitsStayLegal) {
  for (const RouterConfig& config : Configs()) {
    const Tensor logits = Tensor::Random({4, config.num_experts}, DType::kF32, 1);
    const Tensor bias({config.num_experts});
    for (int64_t i = 0; i < config.num_experts; ++i) logits.SetAt(i, std::nan(""));
    const Routed routed(config, 4);
    Route(stream(), routed.Args(config, logits, bias));
    Wait();
    EXPECT_TRUE(std::isnan(routed.weights.At(0)));
    for (int64_t k = 0; k < config.experts_per_token; ++k) {
      EXPECT_GE(routed.expert_of.At(k), 0);
      EXPECT_LT(routed.expert_of.At(k), config.num_experts);
      if (k == 0) continue;
      EXPECT_GT(routed.expert_of.At(k), routed.expert_of.At(k - 1));
    }
  }
}

// A bias may select experts whose sigmoid is 0 in FP32: weights of 0 by the 1e-20 in the divisor,
// and a gradient that is a number.
TEST_P(RouterTest, SelectedScoresOfZeroGiveWeightsOfZero) {
  const RouterConfig config = {.num_experts = 4, .experts_per_token = 2};
  const Tensor logits = Tensor::Of({-200, -200, 0, 1}, DType::kF32, {1, 4});
  const Tensor bias = Tensor::Of({9, 9, 0, 0}, DType::kF32, {4});
  const Routed routed(config, 1);
  Route(stream(), routed.Args(config, logits, bias));
  const Tensor starts = Tensor::Of({0, 1}), load({1, 4}), dlogits({1, 4});
  const Tensor dweights = Tensor::Of({1, 2}, DType::kF32, {1, 2});
  RouterBackward(stream(), {.config = config,
                            .logits = logits,
                            .scores = routed.scores,
                            .expert_of = routed.expert_of,
                            .dweights = dweights,
                            .starts = starts,
                            .load = load,
                            .dlogits = dlogits});
  Wait();
  EXPECT_TRUE(Same(routed.expert_of, Tensor::Of({0, 1}, DType::kI32, {1, 2})));
  EXPECT_TRUE(Same(routed.weights, Tensor({1, 2})));
  for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(dlogits.At(i), 0) << i;
}

nlohmann::json Vectors() {
  std::ifstream file(testing::SourcePath("tests/golden/vectors/moe_gate_noaux_tc.json"));
  return nlohmann::json::parse(file);
}

TEST_P(RouterTest, EqualsThePublishedGate) {
  const nlohmann::json vectors = Vectors();
  const auto& params = vectors["params"];
  const RouterConfig config = {.num_experts = params["n_routed_experts"],
                               .experts_per_token = params["num_experts_per_tok"],
                               .n_group = params["n_group"],
                               .topk_group = params["topk_group"],
                               .group_score = GroupScore::kTopTwoSum,
                               .norm_topk_prob = params["norm_topk_prob"],
                               .routed_scaling_factor = params["routed_scaling_factor"]};
  ASSERT_FALSE(vectors["cases"].empty());
  for (const auto& test : vectors["cases"]) {
    const int64_t experts = config.num_experts, top = config.experts_per_token;
    const Tensor logits =
        Tensor::Of(test["logits"].get<std::vector<double>>(), DType::kF32, {1, experts});
    const Tensor bias = Tensor::Of(test["bias"].get<std::vector<double>>(), DType::kF32, {experts});
    const Routed routed(config, 1);
    Route(stream(), routed.Args(config, logits, bias));
    Wait();
    const Tensor scores =
        Tensor::Of(test["scores"].get<std::vector<double>>(), DType::kF64, {1, experts});
    EXPECT_TRUE(Near(routed.scores, scores, {.relative = 1e-6})) << test["name"];
    // The vectors list experts by falling score, we in ascending order.
    std::vector<std::pair<int, double>> wanted;
    for (int64_t k = 0; k < top; ++k) {
      const auto i = static_cast<size_t>(k);
      wanted.emplace_back(test["topk_index_desc"][i], test["topk_weight"][i]);
    }
    std::sort(wanted.begin(), wanted.end());
    for (int64_t k = 0; k < top; ++k) {
      EXPECT_EQ(routed.expert_of.At(k), wanted[static_cast<size_t>(k)].first) << test["name"];
      EXPECT_NEAR(routed.weights.At(k), wanted[static_cast<size_t>(k)].second, 1e-6);
    }
  }
}

TEST_P(RouterTest, EqualsThePublishedBalanceLoss) {
  const nlohmann::json vector = Vectors()["sequence_balance_loss"];
  const int64_t experts = vector["num_experts"];
  const auto tokens = static_cast<int64_t>(vector["scores"].size());
  const Tensor scores({tokens, experts}), logits({tokens, experts});
  for (int64_t i = 0; i < tokens * experts; ++i) {
    scores.SetAt(
        i, vector["scores"][static_cast<size_t>(i / experts)][static_cast<size_t>(i % experts)]);
  }
  const RouterConfig config = {.num_experts = static_cast<int>(experts),
                               .experts_per_token = vector["topk"]};
  const Tensor starts({2}, DType::kI32), load({1, experts});
  starts.SetAt(1, static_cast<double>(tokens));
  const Tensor balance({1}, DType::kF64), z({1}, DType::kF64);
  Balance({.config = config,
           .logits = logits,
           .scores = scores,
           .starts = starts,
           .load = load,
           .balance = balance,
           .z = z});
  Wait();
  const double alpha = vector["alpha"], loss = vector["loss"];
  EXPECT_NEAR(balance.At(0) * alpha, loss, 1e-7 * loss);
  for (int64_t i = 0; i < experts; ++i) {
    EXPECT_EQ(load.At(i), vector["f"][static_cast<size_t>(i)].get<double>());
  }
}

// Inputs and gradients of the losses of the gate.
struct Losses {
  static constexpr int kTokens = 45;  // the last sequence takes a GPU's block several rounds
  Losses(const RouterConfig& c, DType dtype)
      : config(c),
        starts(Tensor::Of({0, 5, 5, 6, kTokens})),
        logits(Tensor::Random({kTokens, c.num_experts}, dtype, 1, -4, 4)),
        bias(Tensor::Random({c.num_experts}, dtype, 2, -0.1, 0.1)),
        dweights(Tensor::Random({kTokens, c.experts_per_token}, dtype, 3)),
        global(Tensor::Random({c.num_experts}, dtype, 4)),
        routed(c, kTokens, dtype),
        load(Tensor::Unwritten({4, c.num_experts}, dtype)),
        dlogits(Tensor::Unwritten({kTokens, c.num_experts}, dtype)),
        balance(Tensor::Unwritten({4}, DType::kF64)),
        z(Tensor::Unwritten({4}, DType::kF64)) {}
  Losses To(DType dtype) const {
    Losses other(config, dtype);
    other.logits = logits.To(dtype), other.bias = bias.To(dtype);
    other.dweights = dweights.To(dtype), other.global = global.To(dtype);
    other.routed.scores = routed.scores.To(dtype), other.load = load.To(dtype);
    other.routed.expert_of = routed.expert_of.Clone();
    return other;
  }
  BalanceLossArgs Balance() const {
    return {.config = config,
            .logits = logits,
            .scores = routed.scores,
            .starts = starts,
            .load = load,
            .balance = balance,
            .z = z};
  }
  RouterBackwardArgs Backward() const {
    return {.config = config,
            .logits = logits,
            .scores = routed.scores,
            .expert_of = routed.expert_of,
            .dweights = dweights,
            .starts = starts,
            .load = load,
            .dlogits = dlogits,
            .balance_scale = 0.7f,
            .z_scale = 0.01f,
            .global_load_scale = global};
  }
  RouterConfig config;
  Tensor starts, logits, bias, dweights, global;
  Routed routed;
  Tensor load, dlogits, balance, z;
};

TEST_P(RouterTest, BalanceLossEqualsReference) {
  for (const RouterConfig& config : Configs()) {
    const Losses actual(config, DType::kF32);
    Route(stream(), actual.routed.Args(config, actual.logits, actual.bias));
    Wait();
    const Losses expected = actual.To(DType::kF64);
    Balance(actual.Balance());
    Wait();
    reference::BalanceLoss(expected.Balance());
    EXPECT_TRUE(Near(actual.load, expected.load, {.relative = 0x1p-23}));
    // In double from equal scores; z from a float logsumexp of at most 10.
    EXPECT_TRUE(Near(actual.balance, expected.balance, {.relative = 1e-13}));
    EXPECT_TRUE(Near(actual.z, expected.z, {.absolute = 1e-12, .relative = 1e-5}));
    EXPECT_EQ(actual.balance.At(1), 0) << "an empty sequence";
  }
}

// dlogits is a sum of terms of size |dweights| scaling / (sum of the K scores), |load| and |global|
// over the sum of the scores, each off by a few u plus the rounding of sums over E.
TEST_P(RouterTest, BackwardEqualsReference) {
  for (const RouterConfig& config : Configs()) {
    const Losses actual(config, DType::kF32);
    Route(stream(), actual.routed.Args(config, actual.logits, actual.bias));
    Balance(actual.Balance());
    Wait();
    const Losses expected = actual.To(DType::kF64);
    RouterBackward(stream(), actual.Backward());
    Wait();
    reference::RouterBackward(expected.Backward());
    const double experts = config.num_experts;
    Tensor magnitude(actual.dlogits.shape(), DType::kF64);
    for (int64_t i = 0; i < magnitude.num_elements(); ++i) {
      const int64_t t = i / config.num_experts;
      double selected = 0, sum = 0;
      for (int64_t k = 0; k < config.experts_per_token; ++k) {
        const auto e =
            static_cast<int64_t>(actual.routed.expert_of.At(t * config.experts_per_token + k));
        selected += actual.routed.scores.At(t * config.num_experts + e);
      }
      for (int64_t e = 0; e < config.num_experts; ++e) {
        sum += actual.routed.scores.At(t * config.num_experts + e);
      }
      const double divisor = config.norm_topk_prob ? selected : 1.0;
      const double score = actual.routed.scores.At(i);
      magnitude.SetAt(
          i, score * (2 * config.routed_scaling_factor / divisor + 2 * (0.7 * experts + 1) / sum) +
                 0.2 * 10);
    }
    EXPECT_TRUE(Near(actual.dlogits, expected.dlogits,
                     {.magnitude = &magnitude, .magnitude_factor = (experts + 16) * 0x1p-24}))
        << config.num_experts;
  }
}

TEST_P(RouterTest, TokenDoesNotDependOnTheBatch) {
  const RouterConfig config = Configs()[6];
  const Losses batch(config, DType::kF32);
  Route(stream(), batch.routed.Args(config, batch.logits, batch.bias));
  Balance(batch.Balance());
  RouterBackward(stream(), batch.Backward());
  Wait();
  // The last sequence alone.
  constexpr int kLast = Losses::kTokens - 6;
  Losses alone(config, DType::kF32);
  alone.starts = Tensor::Of({0, kLast});
  const auto last = [&](const Tensor& x) { return x.view().Rows(6, kLast); };
  const Routed routed(config, kLast);
  RouteArgs route = routed.Args(config, alone.logits, alone.bias);
  route.logits = last(batch.logits);
  Route(stream(), route);
  const Tensor load({1, config.num_experts}), dlogits({kLast, config.num_experts});
  const Tensor balance({1}, DType::kF64), z({1}, DType::kF64);
  Balance({.config = config,
           .logits = route.logits,
           .scores = routed.scores,
           .starts = alone.starts,
           .load = load,
           .balance = balance,
           .z = z});
  RouterBackwardArgs backward = alone.Backward();
  backward.logits = route.logits, backward.scores = routed.scores;
  backward.expert_of = routed.expert_of, backward.dweights = last(batch.dweights);
  backward.load = load, backward.dlogits = dlogits;
  RouterBackward(stream(), backward);
  Wait();
  EXPECT_EQ(balance.At(0), batch.balance.At(3));
  EXPECT_EQ(z.At(0), batch.z.At(3));
  for (int64_t i = 0; i < dlogits.num_elements(); ++i) {
    ASSERT_EQ(dlogits.At(i), batch.dlogits.At(6 * config.num_experts + i));
  }
}

TEST(RouterReferenceTest, GradientsAreFiniteDifferences) {
  for (const RouterConfig& config : Configs()) {
    if (config.num_experts > 64) continue;
    const Losses test(config, DType::kF64);
    const auto run = [&] {
      RouteArgs args = test.routed.Args(config, test.logits, test.bias);
      reference::Route(args);
      reference::BalanceLoss(test.Balance());
    };
    run();
    reference::RouterBackward(test.Backward());
    // A step too small to change what is selected, so f is constant as the contract says.
    const auto loss = [&] {
      run();
      double total = testing::InnerProduct(test.routed.weights, test.dweights);
      for (int64_t s = 0; s < 4; ++s) {
        total += static_cast<double>(0.7f) * test.balance.At(s) +
                 static_cast<double>(0.01f) * test.z.At(s);
      }
      for (int64_t t = 0; t < Losses::kTokens; ++t) {
        double sum = 0, weighted = 0;
        for (int64_t i = 0; i < config.num_experts; ++i) {
          const double score = test.routed.scores.At(t * config.num_experts + i);
          sum += score, weighted += score * test.global.At(i);
        }
        total += weighted / sum;
      }
      return total;
    };
    EXPECT_TRUE(Near(test.dlogits, testing::FiniteDifference(test.logits, loss, 1e-6),
                     {.absolute = 1e-6, .relative = 1e-6}))
        << config.num_experts;
  }
}

}  // namespace
}  // namespace sluice::kernels
