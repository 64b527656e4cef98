#include "parallel/pipeline/executor.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::parallel {
namespace {

class Runner {
 public:
  Runner(const Schedule& schedule, std::span<Stage* const> stages, Communicator& pipe,
         kernels::DeviceContext& device)
      : schedule_(schedule),
        stages_(stages),
        pipe_(pipe),
        device_(device),
        stream_(device.stream(kernels::StreamRole::kCompute)) {}

  absl::Status Run(const Action& action) {
    switch (action.kind) {
      case ActionKind::kForward:
        return Forward(action.stage, action.microbatch);
      case ActionKind::kBackwardInput:
        return BackwardInput(action.stage, action.microbatch);
      case ActionKind::kBackwardWeight:
        return BackwardWeight(action.stage, action.microbatch);
      case ActionKind::kBackward:
        RETURN_IF_ERROR(BackwardInput(action.stage, action.microbatch));
        return BackwardWeight(action.stage, action.microbatch);
      case ActionKind::kOverlap:
        return Overlap(action);
      case ActionKind::kSendActivation:
        return SendActivation(action.stage, action.microbatch);
      case ActionKind::kReceiveActivation:
        return ReceiveActivation(action.stage, action.microbatch);
      case ActionKind::kSendGradient:
        return SendGradient(action.stage, action.microbatch);
      case ActionKind::kReceiveGradient:
        return ReceiveGradient(action.stage, action.microbatch);
    }
    return absl::OkStatus();
  }

 private:
  // Tags keep apart what several stages of one rank send to the same peer.
  static int ActivationTag(int receiving_stage) { return 2 * receiving_stage; }
  static int GradientTag(int receiving_stage) { return 2 * receiving_stage + 1; }

  Stage& At(int stage) {
    CHECK(stages_[stage] != nullptr) << "stage " << stage << " lives on another rank";
    return *stages_[stage];
  }
  bool IsLocal(int stage, int microbatch) const {
    return stage >= 0 && stage < schedule_.num_stages &&
           schedule_.RankOf(stage, microbatch) == pipe_.rank();
  }

  absl::Status Forward(int stage, int microbatch) {
    for (int phase = 0; phase < At(stage).NumPhases(); ++phase) {
      RETURN_IF_ERROR(At(stage).Forward(microbatch, phase));
    }
    return HandOverActivation(stage, microbatch);
  }
  absl::Status BackwardInput(int stage, int microbatch) {
    for (int phase = At(stage).NumPhases() - 1; phase >= 0; --phase) {
      RETURN_IF_ERROR(At(stage).BackwardInput(microbatch, phase));
    }
    return HandOverGradient(stage, microbatch);
  }
  absl::Status BackwardWeight(int stage, int microbatch) {
    for (int phase = At(stage).NumPhases() - 1; phase >= 0; --phase) {
      RETURN_IF_ERROR(At(stage).BackwardWeight(microbatch, phase));
    }
    return absl::OkStatus();
  }

  // A phase of the forward, then one of the backward, in turn.
  absl::Status Overlap(const Action& action) {
    Stage& front = At(action.stage);
    Stage& back = At(action.backward_stage);
    int forward = 0, backward = back.NumPhases() - 1;
    while (forward < front.NumPhases() || backward >= 0) {
      if (forward < front.NumPhases()) RETURN_IF_ERROR(front.Forward(action.microbatch, forward++));
      if (backward >= 0)
        RETURN_IF_ERROR(back.BackwardInput(action.backward_microbatch, backward--));
    }
    RETURN_IF_ERROR(HandOverActivation(action.stage, action.microbatch));
    RETURN_IF_ERROR(HandOverGradient(action.backward_stage, action.backward_microbatch));
    return BackwardWeight(action.backward_stage, action.backward_microbatch);
  }

  // To the next stage on the same rank.
  absl::Status HandOverActivation(int stage, int microbatch) {
    if (!IsLocal(stage + 1, microbatch)) return absl::OkStatus();
    ASSIGN_OR_RETURN(const TensorView to, At(stage + 1).InputActivation(microbatch));
    device_.Copy(At(stage).OutputActivation(microbatch), to, stream_);
    At(stage).ReleaseOutputActivation(microbatch);
    return absl::OkStatus();
  }
  absl::Status HandOverGradient(int stage, int microbatch) {
    if (!IsLocal(stage - 1, microbatch)) return absl::OkStatus();
    ASSIGN_OR_RETURN(const TensorView to, At(stage - 1).OutputGradient(microbatch));
    device_.Copy(At(stage).InputGradient(microbatch), to, stream_);
    At(stage).ReleaseInputGradient(microbatch);
    return absl::OkStatus();
  }

  absl::Status SendActivation(int stage, int microbatch) {
    const int peer = schedule_.RankOf(stage + 1, microbatch);
    RETURN_IF_ERROR(pipe_.Send(At(stage).OutputActivation(microbatch), peer,
                               ActivationTag(stage + 1), stream_));
    At(stage).ReleaseOutputActivation(microbatch);
    return absl::OkStatus();
  }
  absl::Status ReceiveActivation(int stage, int microbatch) {
    const int peer = schedule_.RankOf(stage - 1, microbatch);
    ASSIGN_OR_RETURN(const TensorView to, At(stage).InputActivation(microbatch));
    return pipe_.Receive(to, peer, ActivationTag(stage), stream_);
  }
  absl::Status SendGradient(int stage, int microbatch) {
    const int peer = schedule_.RankOf(stage - 1, microbatch);
    RETURN_IF_ERROR(
        pipe_.Send(At(stage).InputGradient(microbatch), peer, GradientTag(stage - 1), stream_));
    At(stage).ReleaseInputGradient(microbatch);
    return absl::OkStatus();
  }
  absl::Status ReceiveGradient(int stage, int microbatch) {
    const int peer = schedule_.RankOf(stage + 1, microbatch);
    ASSIGN_OR_RETURN(const TensorView to, At(stage).OutputGradient(microbatch));
    return pipe_.Receive(to, peer, GradientTag(stage), stream_);
  }

  const Schedule& schedule_;
  std::span<Stage* const> stages_;
  Communicator& pipe_;
  kernels::DeviceContext& device_;
  Stream& stream_;
};

// Of what a rank runs in evaluation: kOverlap as its forward.
Action ForwardPartOf(const Action& action) {
  if (action.kind != ActionKind::kOverlap) return action;
  return {ActionKind::kForward, action.stage, action.microbatch};
}

bool IsBackwardOnly(ActionKind kind) {
  switch (kind) {
    case ActionKind::kBackwardInput:
    case ActionKind::kBackwardWeight:
    case ActionKind::kBackward:
    case ActionKind::kSendGradient:
    case ActionKind::kReceiveGradient:
      return true;
    case ActionKind::kForward:
    case ActionKind::kOverlap:
    case ActionKind::kSendActivation:
    case ActionKind::kReceiveActivation:
      return false;
  }
  return false;
}

}  // namespace

absl::Status Execute(const Schedule& schedule, std::span<Stage* const> stages, Communicator& pipe,
                     kernels::DeviceContext& device, const ExecuteOptions& options) {
  CHECK_EQ(schedule.num_ranks(), pipe.size());
  CHECK_EQ(static_cast<size_t>(schedule.num_stages), stages.size());
  Runner runner(schedule, stages, pipe, device);
  for (const Stage* stage : stages) {
    for (int phase = 0; stage != nullptr && phase < stage->NumPhases(); ++phase) {
      CHECK(stage->RoleOf(phase) == kernels::StreamRole::kCompute)
          << "phase " << phase << ": overlap on two streams is not built yet";
    }
  }
  bool before_backward = static_cast<bool>(options.before_first_backward) && !options.forward_only;
  for (const Action& scheduled : schedule.actions[pipe.rank()]) {
    if (options.forward_only && IsBackwardOnly(scheduled.kind)) continue;
    if (before_backward &&
        (IsBackwardOnly(scheduled.kind) || scheduled.kind == ActionKind::kOverlap)) {
      before_backward = false;
      RETURN_IF_ERROR(options.before_first_backward());
    }
    const Action action = options.forward_only ? ForwardPartOf(scheduled) : scheduled;
    const absl::Status status = runner.Run(action);
    if (!status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat("in ", ToText(action), ": ", status.message()));
    }
    if (options.trace != nullptr) options.trace->push_back(action);
  }
  return absl::OkStatus();
}

}  // namespace sluice::parallel
