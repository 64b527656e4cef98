// The exchange of tokens under the executor's overlapping streams: stages whose communication
// phases are real exchanges between the two ranks of an expert group, as an MoE layer's are, while
// the other half of a pair computes. Beside pool_overlap_test.cc this is what of the trainer's
// layers meets on two streams; ThreadSanitizer's build has it.   T tokens, H columns, K experts a
// token
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "parallel/expert/token_exchange.h"
#include "parallel/pipeline/executor.h"
#include "parallel/schedule/schedule.h"
#include "tests/support/tensor.h"
#include "tests/support/thread_ranks.h"

namespace sluice::testing {
namespace {

using kernels::ConstTensorView;
using kernels::CpuStreamMode;
using kernels::DType;
using kernels::Stream;
using kernels::StreamRole;
using kernels::TensorView;

constexpr int64_t kTokens = 24, kHidden = 64, kTopK = 2;
constexpr int kExperts = 4, kPipe = 2, kMembers = 2;

class ExchangeStage : public parallel::Stage {
 public:
  ExchangeStage(int stage, int num_stages, int num_microbatches, kernels::DeviceContext& device,
                parallel::TokenExchange& exchange)
      : stage_(stage),
        is_first_(stage == 0),
        is_last_(stage + 1 == num_stages),
        device_(device),
        exchange_(exchange),
        states_(num_microbatches) {}

  int NumPhases() const override { return 4; }  // attention, dispatch, experts, combine
  StreamRole RoleOf(int phase) const override {
    return phase % 2 == 0 ? StreamRole::kCompute : StreamRole::kComm;
  }

  absl::Status Forward(int microbatch, int phase) override {
    State& s = states_[microbatch];
    Stream& stream = device_.stream(RoleOf(phase));
    if (phase == 0) {
      if (is_first_) Fill(stream, s.x, static_cast<float>(microbatch + 1));
      Scale(stream, s.x, s.h);
      return absl::OkStatus();
    }
    if (phase == 1) {
      s.routes = Routes(microbatch);
      const absl::Status planned = exchange_.Plan(s.routes, stream, s.plan);
      if (!planned.ok()) return planned;
      for (Tensor* rows : {&s.rows, &s.out, &s.d_out, &s.d_rows})
        *rows = Tensor({s.plan.num_received, kHidden});
      return exchange_.Dispatch(s.plan, s.h, s.rows, stream);
    }
    if (phase == 2) {
      Scale(stream, s.rows, s.out);
      return absl::OkStatus();
    }
    const absl::Status combined =
        exchange_.Combine(s.plan, s.out, s.weights, {}, s.returned, s.y, stream);
    if (is_last_) Scale(stream, s.y, s.dy);
    return combined;
  }

  absl::Status BackwardInput(int microbatch, int phase) override {
    State& s = states_[microbatch];
    Stream& stream = device_.stream(RoleOf(phase));
    switch (phase) {
      case 3:
        return exchange_.CombineBackward(s.plan, s.dy, s.returned, s.weights, s.d_out, s.d_weights,
                                         stream);
      case 2:
        Scale(stream, s.d_out, s.d_rows);
        return absl::OkStatus();
      case 1:
        return exchange_.DispatchBackward(s.plan, s.d_rows, {}, s.dh, stream);
      default:
        Scale(stream, s.dh, s.dx);
        return absl::OkStatus();
    }
  }

  // Of what the phase and its input gradient read.
  absl::Status BackwardWeight(int microbatch, int phase) override {
    const State& s = states_[microbatch];
    if (phase == 0) AddProduct(s.x, s.dh);
    if (phase == 2) AddProduct(s.rows, s.d_out);
    return absl::OkStatus();
  }

  absl::StatusOr<TensorView> InputActivation(int m) override { return states_[m].x.view(); }
  absl::StatusOr<TensorView> OutputGradient(int m) override { return states_[m].dy.view(); }
  ConstTensorView OutputActivation(int m) override { return states_[m].y.view(); }
  ConstTensorView InputGradient(int m) override { return states_[m].dx.view(); }
  void ReleaseOutputActivation(int /*microbatch*/) override {}
  void ReleaseInputGradient(int /*microbatch*/) override {}

  float sum() const { return sum_; }

 private:
  struct State {
    Tensor x = Tensor({kTokens, kHidden}), h = x.Clone(), y = x.Clone(), dy = x.Clone(),
           dh = x.Clone(), dx = x.Clone();
    Tensor returned = Tensor({kTokens * kTopK, kHidden}), d_weights = Tensor({kTokens, kTopK});
    Tensor weights = Tensor::Random({kTokens, kTopK}, DType::kF32, 1);
    Tensor routes, rows, out, d_out, d_rows;
    parallel::ExchangePlan plan;
  };

  Tensor Routes(int microbatch) const {
    Tensor routes({kTokens, kTopK}, DType::kI32);
    for (int64_t t = 0; t < kTokens; ++t) {
      const int64_t one = (t * t + microbatch + stage_) % kExperts;
      const std::set<int64_t> chosen = {one, (one + 1 + t % 3) % kExperts};
      int64_t k = 0;
      for (const int64_t expert : chosen)
        routes.SetAt(t * kTopK + k++, static_cast<double>(expert));
    }
    return routes;
  }
  template <typename Work>
  static void Run(Stream& stream, Work work) {
    kernels::CpuStream::From(stream).Run([work](kernels::ThreadPool&) { work(); });
  }
  static void Fill(Stream& stream, const Tensor& x, float first) {
    float* to = x.view().mutable_data<float>();
    Run(stream, [=, n = x.num_elements()] {
      for (int64_t i = 0; i < n; ++i) to[i] = first + 0.01f * static_cast<float>(i % 97);
    });
  }
  void Scale(Stream& stream, const Tensor& x, const Tensor& y) const {
    const float* from = x.view().data<float>();
    float* to = y.view().mutable_data<float>();
    Run(stream, [=, n = x.num_elements(), factor = 0.5f + 0.125f * static_cast<float>(stage_)] {
      for (int64_t i = 0; i < n; ++i) to[i] = factor * from[i] + 0.25f;
    });
  }
  void AddProduct(const Tensor& x, const Tensor& dy) {
    const float *a = x.view().data<float>(), *b = dy.view().data<float>();
    Run(device_.stream(StreamRole::kCompute), [=, this, n = x.num_elements()] {
      for (int64_t i = 0; i < n; ++i) sum_ += a[i] * b[i];
    });
  }

  const int stage_;
  const bool is_first_, is_last_;
  kernels::DeviceContext& device_;
  parallel::TokenExchange& exchange_;
  std::vector<State> states_;
  float sum_ = 0;  // on the compute stream
};

// [rank]: a sum of each stage that changes with any element.
std::vector<std::vector<float>> Sums(const std::string& name, CpuStreamMode mode) {
  const int num_microbatches = 2 * kPipe + 2;
  const parallel::Schedule schedule =
      parallel::MakeSchedule(name, {kPipe, num_microbatches, parallel::DefaultChunks(name)})
          .value();
  std::vector<std::vector<float>> sums(kPipe * kMembers);
  RunThreadRanks(kPipe * kMembers, mode,
                 [&](parallel::Communicator& world, kernels::DeviceContext& device) {
                   const int rank = world.rank();
                   const auto pipe = world.Split(rank % kMembers, rank).value();
                   const auto group = world.Split(rank / kMembers, rank).value();
                   const auto exchange =
                       parallel::TokenExchange::Create(device, *group, kExperts, kTopK).value();
                   std::vector<std::unique_ptr<ExchangeStage>> mine;
                   std::vector<parallel::Stage*> stages(schedule.num_stages, nullptr);
                   for (const int stage : schedule.StagesOn(pipe->rank())) {
                     mine.push_back(std::make_unique<ExchangeStage>(
                         stage, schedule.num_stages, num_microbatches, device, *exchange));
                     stages[stage] = mine.back().get();
                   }
                   ASSERT_EQ(parallel::Execute(schedule, stages, *pipe, device), absl::OkStatus());
                   for (const auto& stage : mine) sums[rank].push_back(stage->sum());
                 });
  return sums;
}

TEST(ExchangeOnStreams, OverlapChangesNoBit) {
  for (const char* name : {"1f1b", "zb_h1", "dualpipe", "dualpipe_v"}) {
    const auto wanted = Sums(name, CpuStreamMode::kInline);
    for (const std::vector<float>& rank : wanted) {
      ASSERT_FALSE(rank.empty());
      for (const float sum : rank) EXPECT_NE(sum, 0.0f);
    }
    for (int repeat = 0; repeat < 3; ++repeat)
      EXPECT_EQ(Sums(name, CpuStreamMode::kThreaded), wanted) << name;
  }
}

}  // namespace
}  // namespace sluice::testing
