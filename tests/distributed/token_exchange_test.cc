// The exchange over MPI gives the bits of one rank alone.
#include <gtest/gtest.h>

#include <cstring>

#include "tests/support/mpi_world.h"
#include "tests/support/token_exchange_problem.h"

namespace sluice::testing {
namespace {

using kernels::ConstTensorView;
using kernels::DType;

class MpiTokenExchange : public ::testing::TestWithParam<ExchangeCase> {};

// Whether rows [begin, begin + count) are the same bytes.
bool SameRows(const Tensor& a, const Tensor& b, int64_t begin, int64_t count) {
  const ConstTensorView x = a.view().Rows(begin, count), y = b.view().Rows(begin, count);
  return x.bytes() == 0 || std::memcmp(x.raw_data(), y.raw_data(), x.bytes()) == 0;
}

TEST_P(MpiTokenExchange, GivesTheBitsOfOneRank) {
  parallel::Communicator& world = World();
  if (GetParam().num_experts % world.size() != 0) return;  // experts cannot be shared
  auto device = kernels::DeviceContext::Create({});
  ASSERT_TRUE(device.ok());
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const ExchangeProblem problem(GetParam(), dtype, Values::kReal);
    const ExchangeOutcome want = RunExchange(problem, 1, kernels::CpuStreamMode::kInline);
    ExchangeOutcome got(problem);
    RunExchangeOnRank(problem, world, **device, got);

    const int64_t begin = problem.TokenBegin(world.rank(), world.size());
    const int64_t count = problem.TokenBegin(world.rank() + 1, world.size()) - begin;
    EXPECT_TRUE(SameRows(got.y, want.y, begin, count));
    EXPECT_TRUE(SameRows(got.dx, want.dx, begin, count));
    EXPECT_TRUE(SameRows(got.dweights, want.dweights, begin, count));

    const int experts = problem.num_experts / world.size();
    int64_t row_begin = 0, rows = 0;  // this rank's experts
    for (int64_t i = 0; i < problem.expert_of.num_elements(); ++i) {
      const int rank = static_cast<int>(problem.expert_of.At(i)) / experts;
      row_begin += rank < world.rank();
      rows += rank == world.rank();
    }
    EXPECT_TRUE(SameRows(got.rows, want.rows, row_begin, rows));
    EXPECT_TRUE(SameRows(got.drows, want.drows, row_begin, rows));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, MpiTokenExchange, ::testing::ValuesIn(ExchangeCases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace sluice::testing
