#include "tests/support/token_exchange_problem.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/core/check.h"
#include "kernels/core/philox.h"
#include "parallel/expert/token_exchange.h"
#include "tests/support/thread_ranks.h"

namespace sluice::testing {

using kernels::ConstTensorView;
using kernels::DType;

namespace {

std::vector<int> ChooseExperts(const ExchangeCase& shape, int64_t token) {
  std::vector<int> experts(shape.num_experts);
  std::iota(experts.begin(), experts.end(), 0);
  if (shape.routing == Routing::kSkipOdd) {
    std::erase_if(experts, [](int e) { return e % 2 == 1; });
  }
  if (shape.routing == Routing::kLastExperts) std::reverse(experts.begin(), experts.end());
  if (shape.routing == Routing::kRandom || shape.routing == Routing::kSkipOdd) {
    for (size_t i = experts.size() - 1; i > 0; --i) {
      const uint32_t random =
          Philox(PhiloxKey(1, RandomPurpose::kTest), static_cast<uint64_t>(token), i)[0];
      std::swap(experts[i], experts[random % (i + 1)]);
    }
  }
  CHECK_LE(shape.experts_per_token, static_cast<int>(experts.size()));
  experts.resize(shape.experts_per_token);
  std::sort(experts.begin(), experts.end());
  return experts;
}

// Row r of all ranks' expert rows, for each (token, k): by expert, then by token.
std::vector<int64_t> RowOf(const ExchangeProblem& problem) {
  const int64_t choices = problem.expert_of.num_elements();
  std::vector<int64_t> order(choices), row_of(choices);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return problem.expert_of.At(a) < problem.expert_of.At(b);
  });
  for (int64_t r = 0; r < choices; ++r) row_of[order[r]] = r;
  return row_of;
}

// to = from * (e + 1) + shift * e for rows of expert e, rounded to the dtype.
void ApplyExpert(const Tensor& from, const Tensor& to, int64_t row, int64_t hidden, double expert,
                 double shift) {
  for (int64_t i = row * hidden; i < (row + 1) * hidden; ++i) {
    to.SetAt(i, from.At(i) * (expert + 1) + shift * expert);
  }
}

}  // namespace

std::vector<ExchangeCase> ExchangeCases() {
  return {
      {"Random", 37, 8, 3, 17},
      {"RandomWide", 64, 16, 4, 96},
      {"OneExpertPerToken", 13, 8, 1, 5},
      {"EveryExpertForEveryToken", 11, 8, 8, 7},
      {"AllTokensOnTheFirstExpert", 19, 8, 1, 3, Routing::kFirstExperts},
      {"AllTokensOnTheLastExperts", 19, 8, 2, 3, Routing::kLastExperts},
      {"OddExpertsGetNoToken", 23, 8, 2, 9, Routing::kSkipOdd},
      {"RanksWithoutTokens", 10, 8, 2, 9, Routing::kRandom, Sharing::kLastRankHasAll},
      {"FirstRankWithoutTokens", 29, 8, 2, 9, Routing::kRandom, Sharing::kFirstRankHasNone},
      {"OneToken", 1, 8, 2, 1},
      {"NoToken", 0, 8, 2, 4},
      {"OneExpertARank", 21, 4, 2, 6},
      {"OneExpert", 5, 1, 1, 2},
  };
}

ExchangeProblem::ExchangeProblem(const ExchangeCase& shape, DType type, Values values)
    : num_experts(shape.num_experts),
      experts_per_token(shape.experts_per_token),
      hidden(shape.hidden),
      num_tokens(shape.num_tokens),
      sharing(shape.sharing),
      dtype(type) {
  const kernels::Shape rows = {num_tokens, hidden}, choices = {num_tokens, experts_per_token};
  const auto make = [&](const kernels::Shape& of, DType as, uint64_t seed) {
    return values == Values::kReal ? Tensor::Random(of, as, seed)
                                   : Tensor::RandomIntegers(of, as, seed, -4, 4);
  };
  x = make(rows, dtype, 1);
  base = make(rows, dtype, 2);
  weights = make(choices, DType::kF32, 3);
  dy = make(rows, dtype, 4);
  base_of_dx = make(rows, dtype, 5);
  expert_of = Tensor(choices, DType::kI32);
  for (int64_t t = 0; t < num_tokens; ++t) {
    const std::vector<int> experts = ChooseExperts(shape, t);
    for (size_t k = 0; k < experts.size(); ++k) {
      expert_of.SetAt(t * experts_per_token + static_cast<int64_t>(k), experts[k]);
    }
  }
}

int64_t ExchangeProblem::TokenBegin(int p, int num_ranks) const {
  if (sharing == Sharing::kLastRankHasAll) return p < num_ranks ? 0 : num_tokens;
  if (sharing == Sharing::kFirstRankHasNone && num_ranks > 1) {
    return p == 0 ? 0 : num_tokens * (p - 1) / (num_ranks - 1);
  }
  return num_tokens * p / num_ranks;
}

ExchangeOutcome::ExchangeOutcome(const ExchangeProblem& problem) {
  const kernels::Shape tokens = {problem.num_tokens, problem.hidden};
  const kernels::Shape all_rows = {problem.expert_of.num_elements(), problem.hidden};
  y = Tensor(tokens, problem.dtype);
  dx = Tensor(tokens, problem.dtype);
  for (Tensor* each : {&rows, &out_rows, &drows, &grad_rows})
    *each = Tensor(all_rows, problem.dtype);
  dweights = Tensor(problem.expert_of.shape());
}

void RunExchangeOnRank(const ExchangeProblem& problem, parallel::Communicator& group,
                       kernels::DeviceContext& device, ExchangeOutcome& outcome) {
  const int num_local = problem.num_experts / group.size();
  const int64_t begin = problem.TokenBegin(group.rank(), group.size());
  const int64_t count = problem.TokenBegin(group.rank() + 1, group.size()) - begin;
  int64_t row_begin = 0;  // of this rank's experts among the rows of all
  for (int64_t i = 0; i < problem.expert_of.num_elements(); ++i) {
    row_begin += problem.expert_of.At(i) < group.rank() * num_local;
  }
  const auto tokens = [&](const Tensor& whole) { return whole.view().Rows(begin, count); };
  kernels::Stream& stream = device.stream(kernels::StreamRole::kCompute);

  auto exchange = parallel::TokenExchange::Create(device, group, problem.num_experts,
                                                  problem.experts_per_token);
  ASSERT_TRUE(exchange.ok()) << exchange.status();
  parallel::ExchangePlan plan;
  ASSERT_TRUE((*exchange)->Plan(tokens(problem.expert_of), stream, plan).ok());
  const auto rows = [&](const Tensor& whole) {
    return whole.view().Rows(row_begin, plan.num_received);
  };
  const auto apply = [&](const Tensor& from, const Tensor& to, double shift) {
    ASSERT_TRUE(stream.Synchronize().ok());
    const int32_t* offsets = plan.offsets.data<int32_t>();
    ASSERT_EQ(plan.offsets.num_elements(), num_local + 1);
    ASSERT_EQ(offsets[num_local], plan.num_received);
    for (int e = 0; e < num_local; ++e) {
      for (int64_t r = offsets[e]; r < offsets[e + 1]; ++r) {
        ApplyExpert(from, to, row_begin + r, problem.hidden, (*exchange)->first_local_expert() + e,
                    shift);
      }
    }
  };

  ASSERT_TRUE((*exchange)->Dispatch(plan, tokens(problem.x), rows(outcome.rows), stream).ok());
  apply(outcome.rows, outcome.out_rows, 1);
  const Tensor returned({count * problem.experts_per_token, problem.hidden}, problem.dtype);
  const ConstTensorView none;
  ASSERT_TRUE((*exchange)
                  ->Combine(plan, rows(outcome.out_rows), tokens(problem.weights),
                            problem.with_base ? tokens(problem.base) : none, returned,
                            tokens(outcome.y), stream)
                  .ok());
  ASSERT_TRUE((*exchange)
                  ->CombineBackward(plan, tokens(problem.dy), returned, tokens(problem.weights),
                                    rows(outcome.drows), tokens(outcome.dweights), stream)
                  .ok());
  apply(outcome.drows, outcome.grad_rows, 0);
  ASSERT_TRUE((*exchange)
                  ->DispatchBackward(plan, rows(outcome.grad_rows),
                                     problem.with_base ? tokens(problem.base_of_dx) : none,
                                     tokens(outcome.dx), stream)
                  .ok());
  ASSERT_TRUE(stream.Synchronize().ok());
}

ExchangeOutcome RunExchange(const ExchangeProblem& problem, int num_ranks,
                            kernels::CpuStreamMode mode) {
  ExchangeOutcome outcome(problem);
  RunThreadRanks(num_ranks, mode,
                 [&](parallel::Communicator& group, kernels::DeviceContext& device) {
                   RunExchangeOnRank(problem, group, device, outcome);
                 });
  return outcome;
}

ExchangeOutcome DefinitionOf(const ExchangeProblem& problem) {
  ExchangeOutcome outcome(problem);
  const std::vector<int64_t> row_of = RowOf(problem);
  const int64_t hidden = problem.hidden;
  for (int64_t i = 0; i < problem.expert_of.num_elements(); ++i) {
    const int64_t token = i / problem.experts_per_token, row = row_of[i];
    const double expert = problem.expert_of.At(i), weight = problem.weights.At(i);
    const bool first = i % problem.experts_per_token == 0;
    for (int64_t h = 0; h < hidden; ++h) {
      const int64_t at = token * hidden + h, r = row * hidden + h;
      if (first && problem.with_base) {
        outcome.y.SetAt(at, problem.base.At(at));
        outcome.dx.SetAt(at, problem.base_of_dx.At(at));
      }
      outcome.rows.SetAt(r, problem.x.At(at));
      outcome.out_rows.SetAt(r, problem.x.At(at) * (expert + 1) + expert);
      outcome.y.SetAt(at, outcome.y.At(at) + weight * outcome.out_rows.At(r));
      outcome.drows.SetAt(r, weight * problem.dy.At(at));
      outcome.dweights.SetAt(i,
                             outcome.dweights.At(i) + problem.dy.At(at) * outcome.out_rows.At(r));
      outcome.grad_rows.SetAt(r, outcome.drows.At(r) * (expert + 1));
      outcome.dx.SetAt(at, outcome.dx.At(at) + outcome.grad_rows.At(r));
    }
  }
  return outcome;
}

}  // namespace sluice::testing
