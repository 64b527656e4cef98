#include "parallel/pipeline/executor.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "parallel/pipeline/overlap_order.h"

namespace sluice::parallel {
namespace {

using kernels::StreamRole;

// What depends on each other, one after the other, on whichever stream each part runs.
class Chain {
 public:
  explicit Chain(kernels::DeviceContext& device) : device_(device), event_(device.CreateEvent()) {}

  // A new one, after what the compute stream holds now.
  void Begin() {
    role_ = StreamRole::kCompute;
    Leave();
  }
  // What is enqueued next goes to the stream of `role` and waits for all of the chain before it.
  void Enter(StreamRole role) {
    if (role != role_) device_.stream(role).Wait(*event_);
    role_ = role;
  }
  // A part is enqueued. At once: what the other chain enqueues behind it on the same stream is
  // nothing to wait for.
  void Leave() { device_.stream(role_).Record(*event_); }

 private:
  kernels::DeviceContext& device_;
  const std::unique_ptr<kernels::Event> event_;
  StreamRole role_ = StreamRole::kCompute;
};

std::vector<StreamRole> RolesOf(const Stage& stage) {
  std::vector<StreamRole> roles;
  roles.reserve(stage.NumPhases());
  for (int phase = 0; phase < stage.NumPhases(); ++phase) roles.push_back(stage.RoleOf(phase));
  return roles;
}

class Runner {
 public:
  Runner(const Schedule& schedule, std::span<Stage* const> stages, Communicator& pipe,
         kernels::DeviceContext& device)
      : schedule_(schedule),
        stages_(stages),
        pipe_(pipe),
        device_(device),
        stream_(device.stream(StreamRole::kCompute)),
        forward_(device),
        backward_(device) {}

  // Nothing that was enqueued may be running when the events go.
  absl::Status Finish() {
    const absl::Status communicated = device_.stream(StreamRole::kComm).Synchronize();
    RETURN_IF_ERROR(stream_.Synchronize());
    return communicated;
  }

  absl::Status Run(const Action& action) {
    switch (action.kind) {
      case ActionKind::kForward:
        return Forward(action.stage, action.microbatch);
      case ActionKind::kBackwardInput:
        return BackwardInput(action.stage, action.microbatch);
      case ActionKind::kBackwardWeight:
        return BackwardWeight(action.stage, action.microbatch);
      case ActionKind::kBackward:
        return Pair(nullptr, {ActionKind::kBackward, action.stage, action.microbatch});
      case ActionKind::kOverlap: {
        const Action front{ActionKind::kForward, action.stage, action.microbatch};
        return Pair(&front,
                    {ActionKind::kBackward, action.backward_stage, action.backward_microbatch});
      }
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
    forward_.Begin();
    for (int phase = 0; phase < At(stage).NumPhases(); ++phase) {
      RETURN_IF_ERROR(ForwardPhase(stage, microbatch, phase));
    }
    forward_.Enter(StreamRole::kCompute);
    return HandOverActivation(stage, microbatch);
  }
  absl::Status BackwardInput(int stage, int microbatch) {
    backward_.Begin();
    for (int phase = At(stage).NumPhases() - 1; phase >= 0; --phase) {
      RETURN_IF_ERROR(BackwardInputPhase(stage, microbatch, phase));
    }
    backward_.Enter(StreamRole::kCompute);
    return HandOverGradient(stage, microbatch);
  }
  absl::Status BackwardWeight(int stage, int microbatch) {
    for (int phase = At(stage).NumPhases() - 1; phase >= 0; --phase) {
      RETURN_IF_ERROR(At(stage).BackwardWeight(microbatch, phase));
    }
    return absl::OkStatus();
  }

  absl::Status ForwardPhase(int stage, int microbatch, int phase) {
    forward_.Enter(At(stage).RoleOf(phase));
    RETURN_IF_ERROR(At(stage).Forward(microbatch, phase));
    forward_.Leave();
    return absl::OkStatus();
  }
  absl::Status BackwardInputPhase(int stage, int microbatch, int phase) {
    backward_.Enter(At(stage).RoleOf(phase));
    RETURN_IF_ERROR(At(stage).BackwardInput(microbatch, phase));
    backward_.Leave();
    return absl::OkStatus();
  }

  // A backward, with a forward beside it or none.
  absl::Status Pair(const Action* front, const Action& back) {
    int inputs_left = At(back.stage).NumPhases();
    forward_.Begin();
    backward_.Begin();
    for (const PhaseStep& step : OrderOf(front, back)) {
      switch (step.kind) {
        case PhaseKind::kForward:
          RETURN_IF_ERROR(ForwardPhase(front->stage, front->microbatch, step.phase));
          break;
        case PhaseKind::kBackwardInput:
          RETURN_IF_ERROR(BackwardInputPhase(back.stage, back.microbatch, step.phase));
          --inputs_left;
          break;
        case PhaseKind::kBackwardWeight:
          if (inputs_left == 0) backward_.Enter(StreamRole::kCompute);
          RETURN_IF_ERROR(At(back.stage).BackwardWeight(back.microbatch, step.phase));
          break;
      }
    }
    backward_.Enter(StreamRole::kCompute);
    if (front != nullptr) {
      forward_.Enter(StreamRole::kCompute);
      RETURN_IF_ERROR(HandOverActivation(front->stage, front->microbatch));
    }
    return HandOverGradient(back.stage, back.microbatch);
  }

  // The same for every microbatch.
  const std::vector<PhaseStep>& OrderOf(const Action* front, const Action& back) {
    const int front_stage = front != nullptr ? front->stage : -1;
    for (const PairOrder& known : orders_) {
      if (known.front_stage == front_stage && known.back_stage == back.stage) return known.steps;
    }
    const std::vector<StreamRole> none;
    orders_.push_back({front_stage, back.stage,
                       OverlapOrder(front != nullptr ? RolesOf(At(front_stage)) : none,
                                    RolesOf(At(back.stage)))});
    return orders_.back().steps;
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
  Chain forward_, backward_;
  struct PairOrder {
    int front_stage, back_stage;
    std::vector<PhaseStep> steps;
  };
  std::vector<PairOrder> orders_;  // of the pairs seen
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

absl::Status RunActions(const Schedule& schedule, int rank, Runner& runner,
                        const ExecuteOptions& options) {
  bool before_backward = static_cast<bool>(options.before_first_backward) && !options.forward_only;
  for (const Action& scheduled : schedule.actions[rank]) {
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

}  // namespace

absl::Status Execute(const Schedule& schedule, std::span<Stage* const> stages, Communicator& pipe,
                     kernels::DeviceContext& device, const ExecuteOptions& options) {
  CHECK_EQ(schedule.num_ranks(), pipe.size());
  CHECK_EQ(static_cast<size_t>(schedule.num_stages), stages.size());
  Runner runner(schedule, stages, pipe, device);
  const absl::Status ran = RunActions(schedule, pipe.rank(), runner, options);
  const absl::Status finished = runner.Finish();
  return ran.ok() ? finished : ran;
}

}  // namespace sluice::parallel
