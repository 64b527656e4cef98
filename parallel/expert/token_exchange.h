// Dropless exchange of token rows between the ranks of an expert group, and its exact adjoints.
//   T local tokens, K experts per token, H hidden, E experts in all, P ranks of the group, L = E /
//   P experts per rank (rank p holds experts [p L, (p + 1) L)), R rows received
//
// Orders. Sent rows: by expert, then by token (T K rows). Received rows as the experts read them:
// by local expert, then by source rank, then by token. The combine happens at the source: y[t] =
// base[t] + sum over experts ascending of weight * row, in FP32, rounded once, so that a token's
// bits do not depend on where its experts live.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "parallel/comm/communicator.h"

namespace sluice::parallel {

// Who sends what in one layer of one microbatch. Its buffers grow only, so reuse one per (layer,
// microbatch in flight).
struct ExchangePlan {
  std::vector<int64_t> send_rows, receive_rows;  // [P], rows per rank
  int64_t num_tokens = 0, num_received = 0;      // T, R
  ConstTensorView token_of;  // [T K] i32: the token whose row is sent at this place
  ConstTensorView row_of;    // [T, K] i32: the place in the sent rows of (token, k)
  ConstTensorView regroup;   // [R] i32: expert-order row -> place in the received rows; null when
                             // that is the identity (P == 1 or L == 1)
  ConstTensorView ungroup;   // [R] i32: the inverse; null with regroup
  ConstTensorView offsets;   // [L + 1] i32 into the expert-order rows
  kernels::Buffer storage;
};

// All calls are collective over the group: all its ranks, the same layers in the same order. Work
// is enqueued on the stream, one stream at a time; Plan, and with P > 1 every call, waits for the
// stream's earlier work. RESOURCE_EXHAUSTED: no memory for the buffers, which grow only and are
// shared by all plans; otherwise the communicator's status.
class TokenExchange {
 public:
  // `group` may have one rank. INVALID_ARGUMENT when its size does not divide num_experts, or
  // experts_per_token is not in [1, num_experts].
  static absl::StatusOr<std::unique_ptr<TokenExchange>> Create(kernels::DeviceContext& device,
                                                               Communicator& group, int num_experts,
                                                               int experts_per_token);
  virtual ~TokenExchange() = default;
  virtual int num_local_experts() const = 0;
  virtual int first_local_expert() const = 0;

  // Makes the plan from expert_of [T, K] i32 (ascending along K). Communicates counts and waits for
  // them.
  virtual absl::Status Plan(ConstTensorView expert_of, Stream& stream, ExchangePlan& plan) = 0;
  // rows [R, H] in expert order = x [T, H] of all ranks; any dtype that GatherRows takes.
  virtual absl::Status Dispatch(const ExchangePlan& plan, ConstTensorView x, TensorView rows,
                                Stream& stream) = 0;
  // returned [T K, H] = the experts' outputs `rows` [R, H] back at their source, in sent order
  // (kept for backward); y [T, H] = base [T, H] (or null) + sum over k of weights [T, K] *
  // returned. With P == 1 `returned` may be `rows`, which saves a copy; y may be base.
  virtual absl::Status Combine(const ExchangePlan& plan, ConstTensorView rows,
                               ConstTensorView weights, ConstTensorView base, TensorView returned,
                               TensorView y, Stream& stream) = 0;
  // drows [R, H] in expert order = weight * dy of all ranks; dweights [T, K] f32 = dy . returned.
  // Overwrites returned.
  virtual absl::Status CombineBackward(const ExchangePlan& plan, ConstTensorView dy,
                                       TensorView returned, ConstTensorView weights,
                                       TensorView drows, TensorView dweights, Stream& stream) = 0;
  // dx [T, H] = base [T, H] (or null) + sum over k ascending of the gradients drows [R, H] of the
  // token's copies, in FP32, rounded once. dx may be base.
  virtual absl::Status DispatchBackward(const ExchangePlan& plan, ConstTensorView drows,
                                        ConstTensorView base, TensorView dx, Stream& stream) = 0;
};

}  // namespace sluice::parallel
