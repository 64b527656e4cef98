#include "parallel/expert/exchange_plan.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/core/check.h"
#include "parallel/expert/grow_buffer.h"

namespace sluice::parallel {
namespace {

using kernels::DType;
using kernels::Shape;

// A tensor of the plan, and where the host writes it.
struct PlanPart {
  TensorView tensor;
  int32_t* host;
};

// Cuts [n] i32 tensors out of a buffer, each on a cache line of its own. On the CPU the host writes
// them in place, else into `host`, which goes to the device as a whole.
class Cutter {
 public:
  Cutter(const kernels::Buffer& buffer, int64_t bytes, bool in_place, std::vector<int32_t>& host)
      : buffer_(buffer), host_(in_place ? nullptr : &host) {
    if (host_ != nullptr) host_->assign(bytes / int64_t{sizeof(int32_t)}, 0);
  }
  static int64_t BytesOf(int64_t n) { return (n * int64_t{sizeof(int32_t)} + 63) / 64 * 64; }
  PlanPart Cut(int64_t n) {
    const TensorView view = buffer_.View(DType::kI32, {n}, offset_);
    int32_t* host = host_ == nullptr ? view.mutable_data<int32_t>()
                                     : host_->data() + offset_ / int64_t{sizeof(int32_t)};
    offset_ += BytesOf(n);
    return {view, host};
  }

 private:
  const kernels::Buffer& buffer_;
  std::vector<int32_t>* const host_;
  int64_t offset_ = 0;
};

// Turns counts into where each begins: the sum of those before it.
void CountsToBegins(std::span<int32_t> counts) {
  int32_t begin = 0;
  for (int32_t& count : counts) {
    const int32_t next = begin + count;
    count = begin;
    begin = next;
  }
}

// Where each (token, k) goes among the sent rows: by expert, then by token. next [E]: where each
// expert's rows begin.
void FillSentOrder(ConstTensorView expert_of, std::span<int32_t> next, int32_t* token_of,
                   int32_t* row_of) {
  const int64_t num_tokens = expert_of.extent(0), k_count = expert_of.extent(1);
  const int32_t* expert = expert_of.data<int32_t>();
  for (int64_t t = 0; t < num_tokens; ++t) {
    for (int64_t i = t * k_count; i < (t + 1) * k_count; ++i) {
      const int32_t place = next[expert[i]]++;
      token_of[place] = static_cast<int32_t>(t);
      row_of[i] = place;
    }
  }
}

// Received rows come by source rank, then by expert; experts read them by expert, then by source.
// begin [P, L]: where the rows of a source for an expert begin among the received ones.
void FillRegroup(std::span<const int32_t> begin, int num_ranks, const PlanPart& regroup,
                 const PlanPart& ungroup) {
  const size_t num_local = begin.size() / num_ranks;
  const int32_t received = static_cast<int32_t>(regroup.tensor.num_elements());
  int32_t row = 0;
  for (size_t e = 0; e < num_local; ++e) {
    for (size_t i = e; i < begin.size(); i += num_local) {
      const int32_t end = i + 1 < begin.size() ? begin[i + 1] : received;
      for (int32_t place = begin[i]; place < end; ++place, ++row) {
        regroup.host[row] = place;
        ungroup.host[place] = row;
      }
    }
  }
}

int64_t Sum(std::span<const int32_t> values) {
  int64_t sum = 0;
  for (const int32_t value : values) sum += value;
  return sum;
}

}  // namespace

void CountTokens(ConstTensorView expert_of, std::span<int32_t> counts) {
  const int num_experts = static_cast<int>(counts.size());
  const int32_t* expert = expert_of.data<int32_t>();
  std::fill(counts.begin(), counts.end(), 0);
  for (int64_t i = 0; i < expert_of.num_elements(); ++i) {
    CHECK_GE(expert[i], 0) << "expert of choice " << i;
    CHECK_LT(expert[i], num_experts) << "expert of choice " << i;
    ++counts[expert[i]];
  }
}

absl::Status FillPlan(kernels::DeviceContext& device, int rank, ConstTensorView expert_of,
                      std::span<int32_t> counts, std::span<int32_t> counts_from, Stream& stream,
                      ExchangePlan& plan) {
  const int num_experts = static_cast<int>(counts.size());  // of all ranks
  const int num_ranks = static_cast<int>(plan.send_rows.size());
  const int num_local = num_experts / num_ranks;
  for (int p = 0; p < num_ranks; ++p) {
    plan.send_rows[p] = Sum(counts.subspan(p * num_local, num_local));
    plan.receive_rows[p] = Sum(counts_from.subspan(p * num_local, num_local));
  }
  CHECK_EQ(plan.send_rows[rank], plan.receive_rows[rank]);
  plan.num_tokens = expert_of.extent(0);
  plan.num_received = Sum(counts_from);
  const int64_t sent = expert_of.num_elements(), received = plan.num_received;
  CHECK_LE(std::max(sent, received), std::numeric_limits<int32_t>::max())
      << "rows are counted in i32";

  const bool regroups = num_ranks > 1 && num_local > 1;
  const int64_t bytes = 2 * Cutter::BytesOf(sent) + Cutter::BytesOf(num_local + 1) +
                        (regroups ? 2 * Cutter::BytesOf(received) : 0);
  RETURN_IF_ERROR(GrowTo(device, bytes, stream, plan.storage));
  const bool in_place = device.id() == kernels::DeviceId{};
  std::vector<int32_t> host;
  Cutter cutter(plan.storage, bytes, in_place, host);
  const PlanPart offsets = cutter.Cut(num_local + 1);
  int32_t* offset = offsets.host;
  offset[0] = 0;
  for (int e = 0; e < num_local; ++e) {
    offset[e + 1] = offset[e];
    for (int p = 0; p < num_ranks; ++p) offset[e + 1] += counts_from[p * num_local + e];
  }
  plan.offsets = offsets.tensor;

  const PlanPart token_of = cutter.Cut(sent), row_of = cutter.Cut(sent);
  CountsToBegins(counts);
  FillSentOrder(expert_of, counts, token_of.host, row_of.host);
  plan.token_of = token_of.tensor;
  plan.row_of = row_of.tensor.Reshape(expert_of.shape());

  plan.regroup = plan.ungroup = ConstTensorView();
  if (regroups) {
    const PlanPart regroup = cutter.Cut(received), ungroup = cutter.Cut(received);
    CountsToBegins(counts_from);
    FillRegroup(counts_from, num_ranks, regroup, ungroup);
    plan.regroup = regroup.tensor;
    plan.ungroup = ungroup.tensor;
  }
  if (in_place) return absl::OkStatus();
  const Shape shape = {static_cast<int64_t>(host.size())};
  device.Copy(ConstTensorView(host.data(), DType::kI32, shape),
              plan.storage.View(DType::kI32, shape), stream);
  return stream.Synchronize();
}

}  // namespace sluice::parallel
