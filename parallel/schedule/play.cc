#include "parallel/schedule/play.h"

#include <algorithm>

namespace sluice::parallel::internal {
namespace {

constexpr int64_t kNever = -1;

// When each product of one microbatch in one stage was there; kNever before.
struct Cell {
  int64_t forward = kNever, input_gradient = kNever;
  int64_t sent_activation = kNever, sent_gradient = kNever;
  int64_t received_activation = kNever, received_gradient = kNever;
};

// kNever if one of them is.
int64_t Both(int64_t a, int64_t b) { return a == kNever || b == kNever ? kNever : std::max(a, b); }

class Player {
 public:
  Player(const Schedule& schedule, const Durations& durations)
      : schedule_(schedule),
        durations_(durations),
        cells_(static_cast<size_t>(schedule.num_stages) * schedule.num_microbatches) {
    for (const auto& actions : schedule.actions) {
      for (const Action& action : actions) has_messages_ |= IsMessage(action.kind);
    }
  }

  Playback Run() {
    Playback playback;
    playback.num_done.assign(schedule_.num_ranks(), 0);
    for (const auto& actions : schedule_.actions) playback.spans.emplace_back(actions.size());
    bool progress = true;
    while (progress) {
      progress = false;
      for (int rank = 0; rank < schedule_.num_ranks(); ++rank) {
        progress |= RunUntilStuck(rank, playback);
      }
    }
    return playback;
  }

 private:
  Cell& At(int stage, int microbatch) {
    return cells_[static_cast<size_t>(stage) * schedule_.num_microbatches + microbatch];
  }

  bool RunUntilStuck(int rank, Playback& playback) {
    const std::vector<Action>& actions = schedule_.actions[rank];
    int& step = playback.num_done[rank];
    const int first = step;
    for (; step < static_cast<int>(actions.size()); ++step) {
      const int64_t ready = ReadyTime(rank, actions[step]);
      if (ready == kNever) break;
      TimeSpan& span = playback.spans[rank][step];
      span.start = std::max(ready, step > 0 ? playback.spans[rank][step - 1].finish : 0);
      span.finish = span.start + DurationOf(actions[step].kind, durations_);
      playback.finish = std::max(playback.finish, span.finish);
      Finish(actions[step], span.finish);
    }
    return step > first;
  }

  // When all that the action needs is there.
  int64_t ReadyTime(int rank, const Action& action) {
    const int stage = action.stage, microbatch = action.microbatch;
    if (!IsOn(schedule_, rank, stage, microbatch)) return kNever;
    switch (action.kind) {
      case ActionKind::kForward:
        return Input(rank, stage, microbatch);
      case ActionKind::kBackward:
      case ActionKind::kBackwardInput:
        return OutputGradient(rank, stage, microbatch);
      case ActionKind::kBackwardWeight:
        return At(stage, microbatch).input_gradient;
      case ActionKind::kOverlap:
        if (!IsOn(schedule_, rank, action.backward_stage, action.backward_microbatch)) {
          return kNever;
        }
        return Both(Input(rank, stage, microbatch),
                    OutputGradient(rank, action.backward_stage, action.backward_microbatch));
      case ActionKind::kSendActivation:
        return At(stage, microbatch).forward;
      case ActionKind::kSendGradient:
        return At(stage, microbatch).input_gradient;
      case ActionKind::kReceiveActivation:
        return stage == 0 ? kNever : At(stage - 1, microbatch).sent_activation;
      case ActionKind::kReceiveGradient:
        return stage + 1 == schedule_.num_stages ? kNever : At(stage + 1, microbatch).sent_gradient;
    }
    return kNever;
  }

  int64_t Input(int rank, int stage, int microbatch) {
    if (stage == 0) return 0;
    return IsDirect(rank, stage - 1, microbatch) ? At(stage - 1, microbatch).forward
                                                 : At(stage, microbatch).received_activation;
  }

  int64_t OutputGradient(int rank, int stage, int microbatch) {
    const Cell& cell = At(stage, microbatch);
    if (stage + 1 == schedule_.num_stages) return cell.forward;
    return Both(cell.forward, IsDirect(rank, stage + 1, microbatch)
                                  ? At(stage + 1, microbatch).input_gradient
                                  : cell.received_gradient);
  }

  // Products of the neighbouring stage are used without a message.
  bool IsDirect(int rank, int neighbour, int microbatch) const {
    return !has_messages_ || schedule_.RankOf(neighbour, microbatch) == rank;
  }

  void Finish(const Action& action, int64_t time) {
    Cell& cell = At(action.stage, action.microbatch);
    switch (action.kind) {
      case ActionKind::kForward:
        cell.forward = time;
        return;
      case ActionKind::kBackward:
      case ActionKind::kBackwardInput:
        cell.input_gradient = time;
        return;
      case ActionKind::kBackwardWeight:
        return;
      case ActionKind::kOverlap:
        cell.forward = time;
        At(action.backward_stage, action.backward_microbatch).input_gradient = time;
        return;
      case ActionKind::kSendActivation:
        cell.sent_activation = time;
        return;
      case ActionKind::kSendGradient:
        cell.sent_gradient = time;
        return;
      case ActionKind::kReceiveActivation:
        cell.received_activation = time;
        return;
      case ActionKind::kReceiveGradient:
        cell.received_gradient = time;
        return;
    }
  }

  const Schedule& schedule_;
  const Durations durations_;
  std::vector<Cell> cells_;  // [stage][microbatch]
  bool has_messages_ = false;
};

}  // namespace

bool IsMessage(ActionKind kind) {
  switch (kind) {
    case ActionKind::kSendActivation:
    case ActionKind::kReceiveActivation:
    case ActionKind::kSendGradient:
    case ActionKind::kReceiveGradient:
      return true;
    case ActionKind::kForward:
    case ActionKind::kBackwardInput:
    case ActionKind::kBackwardWeight:
    case ActionKind::kBackward:
    case ActionKind::kOverlap:
      return false;
  }
  return false;
}

int64_t DurationOf(ActionKind kind, const Durations& durations) {
  switch (kind) {
    case ActionKind::kForward:
      return durations.forward;
    case ActionKind::kBackwardInput:
      return durations.backward_input;
    case ActionKind::kBackwardWeight:
      return durations.backward_weight;
    case ActionKind::kBackward:
      return durations.backward_input + durations.backward_weight;
    case ActionKind::kOverlap:
      return durations.forward + durations.backward_input + durations.backward_weight;
    case ActionKind::kSendActivation:
    case ActionKind::kReceiveActivation:
    case ActionKind::kSendGradient:
    case ActionKind::kReceiveGradient:
      return 0;
  }
  return 0;
}

bool IsOn(const Schedule& schedule, int rank, int stage, int microbatch) {
  return stage >= 0 && stage < schedule.num_stages && microbatch >= 0 &&
         microbatch < schedule.num_microbatches && schedule.RankOf(stage, microbatch) == rank;
}

Playback Play(const Schedule& schedule, const Durations& durations) {
  return Player(schedule, durations).Run();
}

}  // namespace sluice::parallel::internal
