#include "parallel/expert/token_exchange.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "kernels/ops/permute.h"
#include "parallel/expert/exchange_plan.h"
#include "parallel/expert/grow_buffer.h"

namespace sluice::parallel {
namespace {

using kernels::DType;

class TokenExchangeImpl : public TokenExchange {
 public:
  TokenExchangeImpl(kernels::DeviceContext& device, Communicator& group, int num_experts,
                    int experts_per_token)
      : device_(device),
        group_(group),
        num_local_(num_experts / group.size()),
        experts_per_token_(experts_per_token),
        counts_(num_experts),
        counts_from_(num_experts),
        expert_rows_(group.size(), 1) {}

  int num_local_experts() const override { return num_local_; }
  int first_local_expert() const override { return group_.rank() * num_local_; }

  absl::Status Plan(ConstTensorView expert_of, Stream& stream, ExchangePlan& plan) override {
    CHECK_EQ(expert_of.shape().rank(), 2);
    CHECK_EQ(expert_of.extent(1), experts_per_token_);
    CHECK(expert_of.is_contiguous());
    ConstTensorView choices = expert_of;
    if (!(device_.id() == kernels::DeviceId{})) {
      choices_.resize(expert_of.num_elements());
      const TensorView host(choices_.data(), DType::kI32, expert_of.shape());
      device_.Copy(expert_of, host, stream);
      choices = host;
    }
    RETURN_IF_ERROR(stream.Synchronize());
    CountTokens(choices, counts_);
    const int64_t num_ranks = group_.size();
    RETURN_IF_ERROR(group_.AllToAll(
        ConstTensorView(counts_.data(), DType::kI32, {num_ranks, num_local_}), expert_rows_,
        TensorView(counts_from_.data(), DType::kI32, {num_ranks, num_local_}), expert_rows_,
        stream));
    plan.send_rows.resize(num_ranks);
    plan.receive_rows.resize(num_ranks);
    return FillPlan(device_, group_.rank(), choices, counts_, counts_from_, stream, plan);
  }

  absl::Status Dispatch(const ExchangePlan& plan, ConstTensorView x, TensorView rows,
                        Stream& stream) override {
    CheckRows(x, plan.num_tokens, x);
    CheckRows(rows, plan.num_received, x);
    if (group_.size() == 1) {
      kernels::GatherRows(stream, {.x = x, .index = plan.token_of, .y = rows});
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const TensorView sent, Staged(sent_, SentRows(plan), x, stream));
    kernels::GatherRows(stream, {.x = x, .index = plan.token_of, .y = sent});
    return SendToExperts(plan, sent, rows, stream);
  }

  absl::Status Combine(const ExchangePlan& plan, ConstTensorView rows, ConstTensorView weights,
                       ConstTensorView base, TensorView returned, TensorView y,
                       Stream& stream) override {
    CheckRows(rows, plan.num_received, rows);
    CheckRows(returned, SentRows(plan), rows);
    if (group_.size() > 1) {
      RETURN_IF_ERROR(SendToSources(plan, rows, returned, stream));
    } else if (returned.raw_data() != rows.raw_data()) {
      device_.Copy(rows, returned, stream);
    }
    kernels::CombineRows(
        stream,
        {.rows = returned, .row_of = plan.row_of, .weights = weights, .base = base, .y = y});
    return absl::OkStatus();
  }

  absl::Status CombineBackward(const ExchangePlan& plan, ConstTensorView dy, TensorView returned,
                               ConstTensorView weights, TensorView drows, TensorView dweights,
                               Stream& stream) override {
    CheckRows(returned, SentRows(plan), dy);
    CheckRows(drows, plan.num_received, dy);
    const bool alone = group_.size() == 1;
    kernels::CombineRowsBackward(stream, {.dy = dy,
                                          .rows = returned,
                                          .row_of = plan.row_of,
                                          .weights = weights,
                                          .drows = alone ? drows : returned,
                                          .dweights = dweights});
    return alone ? absl::OkStatus() : SendToExperts(plan, returned, drows, stream);
  }

  absl::Status DispatchBackward(const ExchangePlan& plan, ConstTensorView drows,
                                ConstTensorView base, TensorView dx, Stream& stream) override {
    CheckRows(drows, plan.num_received, dx);
    ConstTensorView at_source = drows;
    if (group_.size() > 1) {
      ASSIGN_OR_RETURN(const TensorView sent, Staged(sent_, SentRows(plan), drows, stream));
      RETURN_IF_ERROR(SendToSources(plan, drows, sent, stream));
      at_source = sent;
    }
    kernels::CombineRows(stream, {.rows = at_source, .row_of = plan.row_of, .base = base, .y = dx});
    return absl::OkStatus();
  }

 private:
  static int64_t SentRows(const ExchangePlan& plan) { return plan.token_of.extent(0); }

  static void CheckRows(const ConstTensorView& rows, int64_t count, const ConstTensorView& like) {
    CHECK_EQ(rows.shape().rank(), 2);
    CHECK_EQ(rows.extent(0), count);
    CHECK_EQ(rows.extent(1), like.extent(1));
    CHECK(rows.dtype() == like.dtype()) << NameOf(rows.dtype()).data();
  }

  // [count, H] in a buffer of this exchange, with H and dtype of `like`.
  absl::StatusOr<TensorView> Staged(kernels::Buffer& buffer, int64_t count,
                                    const ConstTensorView& like, Stream& stream) {
    const int64_t bytes = count * like.extent(1) * static_cast<int64_t>(SizeOf(like.dtype()));
    RETURN_IF_ERROR(GrowTo(device_, bytes, stream, buffer));
    return buffer.View(like.dtype(), {count, like.extent(1)});
  }

  // Rows in sent order, at their source -> rows in expert order, at their experts.
  absl::Status SendToExperts(const ExchangePlan& plan, ConstTensorView sent, TensorView rows,
                             Stream& stream) {
    if (plan.regroup.is_null()) {
      return group_.AllToAll(sent, plan.send_rows, rows, plan.receive_rows, stream);
    }
    ASSIGN_OR_RETURN(const TensorView received, Staged(received_, plan.num_received, sent, stream));
    RETURN_IF_ERROR(group_.AllToAll(sent, plan.send_rows, received, plan.receive_rows, stream));
    kernels::GatherRows(stream, {.x = received, .index = plan.regroup, .y = rows});
    return absl::OkStatus();
  }

  // The inverse.
  absl::Status SendToSources(const ExchangePlan& plan, ConstTensorView rows, TensorView sent,
                             Stream& stream) {
    ConstTensorView ungrouped = rows;
    if (!plan.ungroup.is_null()) {
      ASSIGN_OR_RETURN(const TensorView received,
                       Staged(received_, plan.num_received, rows, stream));
      kernels::GatherRows(stream, {.x = rows, .index = plan.ungroup, .y = received});
      ungrouped = received;
    }
    return group_.AllToAll(ungrouped, plan.receive_rows, sent, plan.send_rows, stream);
  }

  kernels::DeviceContext& device_;
  Communicator& group_;
  const int num_local_, experts_per_token_;
  std::vector<int32_t> counts_;       // [E], of this rank's tokens
  std::vector<int32_t> counts_from_;  // [P, L], of this rank's experts
  std::vector<int32_t> choices_;      // [T K], copied from a GPU
  std::vector<int64_t> expert_rows_;  // [P] ones: one row of counts to and from each rank
  kernels::Buffer sent_, received_;   // rows on their way
};

}  // namespace

absl::StatusOr<std::unique_ptr<TokenExchange>> TokenExchange::Create(kernels::DeviceContext& device,
                                                                     Communicator& group,
                                                                     int num_experts,
                                                                     int experts_per_token) {
  if (num_experts < 1 || num_experts % group.size() != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("an expert group of ", group.size(), " ranks cannot share ", num_experts,
                     " experts equally; the number of experts must be a multiple of it"));
  }
  if (experts_per_token < 1 || experts_per_token > num_experts) {
    return absl::InvalidArgumentError(absl::StrCat("experts per token is ", experts_per_token,
                                                   ", wanted 1 to ", num_experts,
                                                   ", the number of experts"));
  }
  return std::make_unique<TokenExchangeImpl>(device, group, num_experts, experts_per_token);
}

}  // namespace sluice::parallel
