#include "parallel/expert/token_exchange.h"

#include <gtest/gtest.h>

#include "tests/support/near.h"
#include "tests/support/tensor.h"
#include "tests/support/thread_ranks.h"
#include "tests/support/token_exchange_problem.h"

namespace sluice::testing {
namespace {

using kernels::CpuStreamMode;
using kernels::DType;

class TokenExchange : public ::testing::TestWithParam<ExchangeCase> {};

void ExpectSame(const ExchangeOutcome& got, const ExchangeOutcome& want) {
  EXPECT_TRUE(Same(got.rows, want.rows));
  EXPECT_TRUE(Same(got.y, want.y));
  EXPECT_TRUE(Same(got.drows, want.drows));
  EXPECT_TRUE(Same(got.dweights, want.dweights));
  EXPECT_TRUE(Same(got.dx, want.dx));
}

// y, dx and dweights per token and rows per expert do not depend on where experts and tokens live.
TEST_P(TokenExchange, BitsAreTheSameInEveryGroupSize) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const ExchangeProblem problem(GetParam(), dtype, Values::kReal);
    const ExchangeOutcome want = RunExchange(problem, 1, CpuStreamMode::kInline);
    for (const int num_ranks : {2, 4, 8}) {
      if (problem.num_experts % num_ranks != 0) continue;
      SCOPED_TRACE(num_ranks);
      ExpectSame(RunExchange(problem, num_ranks, CpuStreamMode::kInline), want);
    }
  }
}

// With small integers every sum is exact, so the outcome equals the definition exactly.
TEST_P(TokenExchange, EqualsItsDefinition) {
  const ExchangeProblem problem(GetParam(), DType::kF32, Values::kIntegers);
  const ExchangeOutcome want = DefinitionOf(problem);
  for (const int num_ranks : {1, 2, 4}) {
    if (problem.num_experts % num_ranks != 0) continue;
    SCOPED_TRACE(num_ranks);
    ExpectSame(RunExchange(problem, num_ranks, CpuStreamMode::kInline), want);
  }
}

double Dot(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  double sum = 0;
  for (int64_t i = 0; i < a.num_elements(); ++i) sum += a.At(i) * b.At(i);
  return sum;
}

// <A x, z> == <x, A^T z>, exactly, for both pairs; and y is linear in the weights as well.
TEST_P(TokenExchange, BackwardIsTheExactAdjoint) {
  ExchangeProblem problem(GetParam(), DType::kF32, Values::kIntegers);
  problem.with_base = false;
  for (const int num_ranks : {1, 2, 4}) {
    if (problem.num_experts % num_ranks != 0) continue;
    SCOPED_TRACE(num_ranks);
    const ExchangeOutcome got = RunExchange(problem, num_ranks, CpuStreamMode::kInline);
    EXPECT_EQ(Dot(got.rows, got.grad_rows), Dot(problem.x, got.dx));
    EXPECT_EQ(Dot(got.y, problem.dy), Dot(got.out_rows, got.drows));
    EXPECT_EQ(Dot(got.y, problem.dy), Dot(problem.weights, got.dweights));
  }
}

TEST_P(TokenExchange, ThreadedStreamsGiveTheSameBits) {
  const ExchangeProblem problem(GetParam(), DType::kBF16, Values::kReal);
  const ExchangeOutcome want = RunExchange(problem, 1, CpuStreamMode::kInline);
  for (const int num_ranks : {1, 2}) {
    if (problem.num_experts % num_ranks != 0) continue;
    SCOPED_TRACE(num_ranks);
    ExpectSame(RunExchange(problem, num_ranks, CpuStreamMode::kThreaded), want);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, TokenExchange, ::testing::ValuesIn(ExchangeCases()),
                         [](const auto& info) { return info.param.name; });

TEST(TokenExchangeCreate, RefusesWhatDoesNotDivide) {
  RunThreadRanks(3, CpuStreamMode::kInline,
                 [](parallel::Communicator& group, kernels::DeviceContext& device) {
                   using parallel::TokenExchange;
                   EXPECT_EQ(TokenExchange::Create(device, group, 8, 2).status().code(),
                             absl::StatusCode::kInvalidArgument);
                   EXPECT_EQ(TokenExchange::Create(device, group, 9, 10).status().code(),
                             absl::StatusCode::kInvalidArgument);
                   auto good = TokenExchange::Create(device, group, 9, 9);
                   ASSERT_TRUE(good.ok());
                   EXPECT_EQ((*good)->num_local_experts(), 3);
                   EXPECT_EQ((*good)->first_local_expert(), 3 * group.rank());
                 });
}

// Steps whose row counts stay below the largest seen allocate nothing.
TEST(TokenExchangeBuffers, GrowOnlyAndThenStay) {
  RunThreadRanks(2, CpuStreamMode::kInline,
                 [](parallel::Communicator& group, kernels::DeviceContext& device) {
                   auto exchange = parallel::TokenExchange::Create(device, group, 4, 1);
                   ASSERT_TRUE(exchange.ok());
                   kernels::Stream& stream = device.stream(kernels::StreamRole::kCompute);
                   parallel::ExchangePlan plan;
                   int64_t allocations = 0;
                   for (const int64_t num_tokens : {64, 63, 1, 0, 40}) {
                     const Tensor expert_of({num_tokens, 1}, DType::kI32);
                     for (int64_t t = 0; t < num_tokens; ++t)
                       expert_of.SetAt(t, static_cast<double>(t % 4));
                     const Tensor x({num_tokens, 8});
                     ASSERT_TRUE((*exchange)->Plan(expert_of, stream, plan).ok());
                     const Tensor rows({plan.num_received, 8});
                     ASSERT_TRUE((*exchange)->Dispatch(plan, x, rows, stream).ok());
                     ASSERT_TRUE((*exchange)->DispatchBackward(plan, rows, x, x, stream).ok());
                     if (num_tokens == 64) allocations = device.memory().num_allocations();
                   }
                   EXPECT_EQ(device.memory().num_allocations(), allocations);
                 });
}

}  // namespace
}  // namespace sluice::testing
