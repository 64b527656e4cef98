// That the halves of a pair really run at once: phases that meet on the two streams wait for each
// other in the middle, which none could that had to be done first.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "parallel/pipeline/executor.h"
#include "tests/support/tensor.h"
#include "tests/support/thread_ranks.h"

namespace sluice::parallel {
namespace {

using kernels::CpuStreamMode;
using kernels::StreamRole;

constexpr int kPhases = 4;  // attention, dispatch, experts, combine

// Far more than a busy machine needs; only a phase that waits for its partner's end waits so long.
constexpr auto kPatience = std::chrono::seconds(20);

class MeetingPoints {
 public:
  // Waits for the other of the two that come here.
  void Meet(int point) {
    std::unique_lock<std::mutex> lock(mutex_);
    ++here_[point];
    changed_.notify_all();
    if (!changed_.wait_for(lock, kPatience, [&] { return here_[point] == 2; })) missed_[point] = 1;
  }
  const std::array<int, kPhases>& missed() const { return missed_; }  // when all is done

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::array<int, kPhases> here_ = {}, missed_ = {};
};

// The forward of microbatch 1 and the backward of microbatch 0 are a pair. They go through the
// phases in opposite order, so phase p of one meets phase 3 - p of the other.
class MeetingStage : public Stage {
 public:
  MeetingStage(kernels::DeviceContext& device, MeetingPoints& points)
      : device_(device), points_(points) {}

  int NumPhases() const override { return kPhases; }
  StreamRole RoleOf(int phase) const override {
    return phase % 2 == 0 ? StreamRole::kCompute : StreamRole::kComm;
  }
  absl::Status Forward(int microbatch, int phase) override {
    if (microbatch == 1) EnqueueMeeting(phase, phase);
    return absl::OkStatus();
  }
  absl::Status BackwardInput(int microbatch, int phase) override {
    if (microbatch == 0) EnqueueMeeting(phase, kPhases - 1 - phase);
    return absl::OkStatus();
  }
  absl::Status BackwardWeight(int, int) override { return absl::OkStatus(); }

  // No other stage sends or receives.
  absl::StatusOr<kernels::TensorView> InputActivation(int) override { return nothing_.view(); }
  absl::StatusOr<kernels::TensorView> OutputGradient(int) override { return nothing_.view(); }
  kernels::ConstTensorView OutputActivation(int) override { return nothing_.view(); }
  kernels::ConstTensorView InputGradient(int) override { return nothing_.view(); }
  void ReleaseOutputActivation(int) override {}
  void ReleaseInputGradient(int) override {}

 private:
  void EnqueueMeeting(int phase, int point) {
    kernels::CpuStream::From(device_.stream(RoleOf(phase)))
        .Run([this, point](kernels::ThreadPool&) { points_.Meet(point); });
  }

  kernels::DeviceContext& device_;
  MeetingPoints& points_;
  const ::sluice::testing::Tensor nothing_{{1}};
};

TEST(ExecutorOverlap, PhasesThatMeetWaitForNothingOfEachOther) {
  Schedule schedule = MakeSchedule("1f1b", {1, 2, 1}).value();
  schedule.actions = ParseActions("F0.0 (F0.1|B0.0) B0.1").value();
  ASSERT_EQ(Validate(schedule), absl::OkStatus());
  MeetingPoints points;
  ::sluice::testing::RunThreadRanks(
      1, CpuStreamMode::kThreaded, [&](Communicator& pipe, kernels::DeviceContext& device) {
        MeetingStage stage(device, points);
        Stage* const stages[] = {&stage};
        EXPECT_EQ(Execute(schedule, stages, pipe, device), absl::OkStatus());
      });
  EXPECT_EQ(points.missed(), (std::array<int, kPhases>{}));
}

}  // namespace
}  // namespace sluice::parallel
