// A token exchange over some number of ranks, for tests of it over threads and over MPI.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/core/cpu_stream.h"
#include "kernels/core/device.h"
#include "parallel/comm/communicator.h"
#include "tests/support/tensor.h"

namespace sluice::testing {

enum class Routing : uint8_t {
  kRandom,
  kFirstExperts,  // all tokens on experts 0 to K - 1; the others get none
  kLastExperts,
  kSkipOdd  // experts of odd number get no token
};
enum class Sharing : uint8_t {
  kEqual,
  kLastRankHasAll,  // the others have no token
  kFirstRankHasNone
};
enum class Values : uint8_t { kIntegers, kReal };

struct ExchangeCase {
  std::string name;
  int64_t num_tokens = 0;
  int num_experts = 0, experts_per_token = 0;
  int64_t hidden = 0;
  Routing routing = Routing::kRandom;
  Sharing sharing = Sharing::kEqual;
};
std::vector<ExchangeCase> ExchangeCases();

// Tokens of all ranks together; rank p of P has a run of them. Expert e multiplies by e + 1 and
// adds its number, so a row at the wrong expert shows.
struct ExchangeProblem {
  ExchangeProblem(const ExchangeCase& shape, kernels::DType dtype, Values values);
  // First token of rank p of num_ranks; p may be num_ranks.
  int64_t TokenBegin(int p, int num_ranks) const;

  int num_experts, experts_per_token;
  int64_t hidden, num_tokens;
  Sharing sharing;
  bool with_base = true;
  kernels::DType dtype;
  Tensor expert_of;       // [T, K] i32, ascending along K
  Tensor x, base;         // [T, H]
  Tensor weights;         // [T, K] f32
  Tensor dy, base_of_dx;  // [T, H]
};

// Of all ranks together: rows by expert, tokens in order.
struct ExchangeOutcome {
  explicit ExchangeOutcome(const ExchangeProblem& problem);
  Tensor rows, out_rows;    // [T K, H] what experts got and what they made of it
  Tensor y;                 // [T, H]
  Tensor drows, grad_rows;  // [T K, H] gradients of out_rows and of rows
  Tensor dweights;          // [T, K] f32
  Tensor dx;                // [T, H]
};

// Forward and backward on one rank of the group; fills this rank's part of `outcome` (its tokens,
// its experts' rows). Fails the test on an error.
void RunExchangeOnRank(const ExchangeProblem& problem, parallel::Communicator& group,
                       kernels::DeviceContext& device, ExchangeOutcome& outcome);

// The whole, over a Self or Threads communicator.
ExchangeOutcome RunExchange(const ExchangeProblem& problem, int num_ranks,
                            kernels::CpuStreamMode mode);

// The same by the formulas alone; exact for Values::kIntegers only.
ExchangeOutcome DefinitionOf(const ExchangeProblem& problem);

}  // namespace sluice::testing
