// The trainer's pool under the executor's overlapping streams: stages whose phases take and give
// back blocks in the order in which they are enqueued, as the trainer's modules do. Everything that
// keeps the two streams of a rank apart is here, the executor's events and the pool's, and nothing
// else of the trainer, so that ThreadSanitizer's build has it at little cost: there a forgotten
// wait is a race.   P ranks, T elements of a block
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "parallel/pipeline/executor.h"
#include "parallel/schedule/schedule.h"
#include "tests/support/thread_ranks.h"
#include "trainer/model/tape.h"

namespace sluice::trainer {
namespace {

using kernels::CpuStreamMode;
using kernels::StreamRole;

constexpr int64_t kElements = 2048;
constexpr int kNumPhases = 4;  // attention, dispatch, experts, combine

// Sums of a stage that change with any element of any block that it read.
using Sums = std::vector<uint64_t>;  // [phase], zero where it only communicates

class PooledStage : public parallel::Stage {
 public:
  PooledStage(int stage, int num_stages, int num_microbatches, kernels::DeviceContext& device,
              ActivationPool& pool)
      : stage_(stage),
        is_first_(stage == 0),
        is_last_(stage + 1 == num_stages),
        device_(device),
        pool_(pool),
        sums_(kNumPhases, 0),
        tapes_(num_microbatches) {
    for (SlotId& slot : kept_) slot = layout_.NewSlot();
    for (SlotId& slot : gradients_) slot = layout_.NewSlot();
    for (SlotId& slot : weights_) slot = layout_.NewSlot();
    for (SlotId* slot : {&x_, &y_, &dx_, &dy_}) *slot = layout_.NewSlot();
  }

  int NumPhases() const override { return kNumPhases; }
  StreamRole RoleOf(int phase) const override {
    return phase % 2 == 0 ? StreamRole::kCompute : StreamRole::kComm;
  }

  // By way of a temporary that is given back before it is written.
  absl::Status Forward(int microbatch, int phase) override {
    Tape& tape = Enter(microbatch, RoleOf(phase));
    const bool begins = phase == 0 && is_first_;
    const int32_t* from = begins ? nullptr : Data(tape, phase == 0 ? x_ : kept_[phase - 1]);
    const Temporary temporary(pool_, DType::kI32, {kElements});
    int32_t* between = temporary.view().mutable_data<int32_t>();
    int32_t* to = New(tape, kept_[phase]);
    const int32_t seed = 1000 * microbatch + 10 * stage_ + phase;
    Run(RoleOf(phase), [=] {
      for (int32_t i = 0; i < kElements; ++i) between[i] = (from == nullptr ? i : from[i]) / 3 + i;
      for (int32_t i = 0; i < kElements; ++i) to[i] = between[i] + seed;
    });
    if (phase + 1 < kNumPhases) return absl::OkStatus();
    int32_t* y = New(tape, is_last_ ? dy_ : y_);
    Run(RoleOf(phase), [=] { std::copy(to, to + kElements, y); });
    return absl::OkStatus();
  }

  // What a phase kept, and the gradient that it read, are given back where they were read, on
  // either stream. Phases that compute leave something for their weights' gradients.
  absl::Status BackwardInput(int microbatch, int phase) override {
    Tape& tape = Enter(microbatch, RoleOf(phase));
    const SlotId read = phase + 1 == kNumPhases ? dy_ : gradients_[phase + 1];
    const int32_t* from = Data(tape, read);
    const int32_t* kept = Data(tape, kept_[phase]);
    int32_t* to = New(tape, gradients_[phase]);
    int32_t* left = HasWeights(phase) ? New(tape, weights_[phase]) : nullptr;
    Run(RoleOf(phase), [=] {
      for (int32_t i = 0; i < kElements; ++i) to[i] = from[i] / 2 + kept[i] / 3;
      if (left != nullptr) std::copy(to, to + kElements, left);
    });
    tape.Free(kept_[phase]);
    if (read != dy_) tape.Free(read);
    if (phase > 0) return absl::OkStatus();
    if (!is_first_) {
      int32_t* dx = New(tape, dx_);
      Run(RoleOf(phase), [=] { std::copy(to, to + kElements, dx); });
    }
    tape.Free(gradients_[phase]);
    return absl::OkStatus();
  }

  absl::Status BackwardWeight(int microbatch, int phase) override {
    if (!HasWeights(phase)) return absl::OkStatus();
    Tape& tape = Enter(microbatch, StreamRole::kCompute);
    const int32_t* left = Data(tape, weights_[phase]);
    uint64_t* sum = &sums_[phase];
    const uint64_t weight = microbatch + 1;
    Run(StreamRole::kCompute, [=] {
      for (int32_t i = 0; i < kElements; ++i) *sum += weight * (i + 1) * (left[i] + 1);
    });
    tape.Free(weights_[phase]);
    if (phase > 0) return absl::OkStatus();
    tape.Free(x_);
    tape.Free(dy_);
    return absl::OkStatus();
  }

  absl::StatusOr<TensorView> InputActivation(int microbatch) override {
    return View(microbatch, x_);
  }
  absl::StatusOr<TensorView> OutputGradient(int microbatch) override {
    return View(microbatch, dy_);
  }
  ConstTensorView OutputActivation(int microbatch) override { return TapeOf(microbatch).Get(y_); }
  ConstTensorView InputGradient(int microbatch) override { return TapeOf(microbatch).Get(dx_); }
  void ReleaseOutputActivation(int microbatch) override { TapeOf(microbatch).Free(y_); }
  void ReleaseInputGradient(int microbatch) override { TapeOf(microbatch).Free(dx_); }

  const Sums& sums() const { return sums_; }

 private:
  bool HasWeights(int phase) const { return RoleOf(phase) == StreamRole::kCompute; }
  Tape& TapeOf(int microbatch) {
    std::unique_ptr<Tape>& tape = tapes_[microbatch];
    if (tape == nullptr) tape = std::make_unique<Tape>(layout_, pool_);
    return *tape;
  }
  Tape& Enter(int microbatch, StreamRole role) {
    pool_.Enter(role);
    return TapeOf(microbatch);
  }
  absl::StatusOr<TensorView> View(int microbatch, SlotId slot) {
    Tape& tape = Enter(microbatch, StreamRole::kCompute);
    return tape.Has(slot) ? tape.Get(slot) : tape.New(slot, DType::kI32, {kElements});
  }
  static int32_t* New(Tape& tape, SlotId slot) {
    return tape.New(slot, DType::kI32, {kElements}).mutable_data<int32_t>();
  }
  static const int32_t* Data(const Tape& tape, SlotId slot) {
    return tape.Get(slot).data<int32_t>();
  }
  template <typename Work>
  void Run(StreamRole role, Work work) {
    kernels::CpuStream::From(device_.stream(role)).Run([work](kernels::ThreadPool&) { work(); });
  }

  const int stage_;
  const bool is_first_, is_last_;
  kernels::DeviceContext& device_;
  ActivationPool& pool_;
  TapeLayout layout_;
  SlotId kept_[kNumPhases], gradients_[kNumPhases], weights_[kNumPhases], x_, y_, dx_, dy_;
  Sums sums_;
  std::vector<std::unique_ptr<Tape>> tapes_;
};

// Two steps on the same pools, so that the second begins with blocks of both streams.
Sums RunSteps(const std::string& name, int ranks, CpuStreamMode mode) {
  const int num_microbatches = 4 * ranks, chunks = parallel::DefaultChunks(name);
  const parallel::Schedule schedule =
      parallel::MakeSchedule(name, {ranks, num_microbatches, chunks}).value();
  std::vector<Sums> of_rank(ranks);
  ::sluice::testing::RunThreadRanks(
      ranks, mode, [&](parallel::Communicator& pipe, kernels::DeviceContext& device) {
        ActivationPool pool(device, nullptr, nullptr);
        for (int step = 0; step < 2; ++step) {
          std::vector<std::unique_ptr<PooledStage>> mine;
          std::vector<parallel::Stage*> stages(schedule.num_stages, nullptr);
          for (const int stage : schedule.StagesOn(pipe.rank())) {
            mine.push_back(std::make_unique<PooledStage>(stage, schedule.num_stages,
                                                         num_microbatches, device, pool));
            stages[stage] = mine.back().get();
          }
          ASSERT_EQ(parallel::Execute(schedule, stages, pipe, device), absl::OkStatus());
          pool.Enter(StreamRole::kCompute);
          pool.Settle();
          for (const auto& stage : mine) {
            Sums& sums = of_rank[pipe.rank()];
            sums.insert(sums.end(), stage->sums().begin(), stage->sums().end());
          }
        }
      });
  Sums all;
  for (const Sums& sums : of_rank) all.insert(all.end(), sums.begin(), sums.end());
  return all;
}

TEST(PoolOnStreams, OverlapChangesNoBit) {
  for (const char* name : {"1f1b", "zb_h1", "dualpipe", "dualpipe_v"}) {
    for (const int ranks : {2, 4}) {
      const Sums wanted = RunSteps(name, ranks, CpuStreamMode::kInline);
      ASSERT_FALSE(wanted.empty());
      EXPECT_EQ(std::count(wanted.begin(), wanted.end(), 0), std::ssize(wanted) / 2);
      for (int repeat = 0; repeat < 3; ++repeat)
        EXPECT_EQ(RunSteps(name, ranks, CpuStreamMode::kThreaded), wanted) << name << " " << ranks;
    }
  }
}

}  // namespace
}  // namespace sluice::trainer
