// Plays all ranks of a schedule without running anything. Sends never block, receives wait for
// their message.
#include <deque>
#include <map>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "parallel/schedule/schedule.h"

namespace sluice::parallel {
namespace {

// Progress of one microbatch in one stage.
struct Cell {
  bool has_input = false, forward = false, has_gradient = false, backward_input = false,
       backward_weight = false;
};

class Player {
 public:
  explicit Player(const Schedule& schedule)
      : schedule_(schedule),
        cells_(schedule.num_stages, std::vector<Cell>(schedule.num_microbatches)),
        next_(schedule.num_ranks(), 0),
        last_weight_(schedule.num_stages) {
    for (auto& last : last_weight_) last.assign(schedule.rank_of_stage.size(), -1);
  }

  absl::Status Play() {
    for (int m = 0; m < schedule_.num_microbatches; ++m) {
      cells_.front()[m].has_input = true;
      cells_.back()[m].has_gradient = true;
    }
    bool progress = true;
    while (progress) {
      progress = false;
      for (int rank = 0; rank < schedule_.num_ranks(); ++rank) {
        while (next_[rank] < schedule_.actions[rank].size()) {
          const Action& action = schedule_.actions[rank][next_[rank]];
          if (MustWait(rank, action)) break;
          RETURN_IF_ERROR(Do(rank, action));
          ++next_[rank];
          progress = true;
        }
      }
    }
    return CheckFinished();
  }

 private:
  using Channel = std::tuple<int, int, ActionKind, int>;  // from, to, kind of the send, its stage

  absl::Status Fault(int rank, absl::string_view what) const {
    const int step = static_cast<int>(next_[rank]);
    const bool inside = next_[rank] < schedule_.actions[rank].size();
    return absl::InvalidArgumentError(
        absl::StrCat("schedule ", schedule_.name, ", rank ", rank, ", action ", step, " ",
                     inside ? ToText(schedule_.actions[rank][step]) : "(the end)", ": ", what, "\n",
                     DrawGrid(schedule_, rank, step)));
  }

  bool Known(int stage, int microbatch) const {
    return stage >= 0 && stage < schedule_.num_stages && microbatch >= 0 &&
           microbatch < schedule_.num_microbatches;
  }
  Cell& At(int stage, int microbatch) { return cells_[stage][microbatch]; }

  // The channel that a receive reads; its sender holds the neighbouring stage.
  Channel ReceivedFrom(int rank, const Action& action) const {
    const bool activation = action.kind == ActionKind::kReceiveActivation;
    const int source = activation ? action.stage - 1 : action.stage + 1;
    return {schedule_.RankOf(source, action.microbatch), rank,
            activation ? ActionKind::kSendActivation : ActionKind::kSendGradient, source};
  }
  bool HasSource(const Action& action) const {
    const int source =
        action.kind == ActionKind::kReceiveActivation ? action.stage - 1 : action.stage + 1;
    return Known(action.stage, action.microbatch) && Known(source, action.microbatch);
  }

  bool MustWait(int rank, const Action& action) {
    if (action.kind != ActionKind::kReceiveActivation &&
        action.kind != ActionKind::kReceiveGradient)
      return false;
    return HasSource(action) && channels_[ReceivedFrom(rank, action)].empty();
  }

  absl::Status Do(int rank, const Action& action) {
    if (!Known(action.stage, action.microbatch)) return Fault(rank, "no such stage or microbatch");
    if (schedule_.RankOf(action.stage, action.microbatch) != rank)
      return Fault(rank, "the stage lives on another rank");
    switch (action.kind) {
      case ActionKind::kForward:
        return Forward(rank, action.stage, action.microbatch);
      case ActionKind::kBackwardInput:
        return BackwardInput(rank, action.stage, action.microbatch);
      case ActionKind::kBackwardWeight:
        return BackwardWeight(rank, action.stage, action.microbatch);
      case ActionKind::kBackward:
        RETURN_IF_ERROR(BackwardInput(rank, action.stage, action.microbatch));
        return BackwardWeight(rank, action.stage, action.microbatch);
      case ActionKind::kOverlap:
        if (!Known(action.backward_stage, action.backward_microbatch) ||
            schedule_.RankOf(action.backward_stage, action.backward_microbatch) != rank) {
          return Fault(rank, "its backward is of no stage on this rank");
        }
        RETURN_IF_ERROR(Forward(rank, action.stage, action.microbatch));
        RETURN_IF_ERROR(BackwardInput(rank, action.backward_stage, action.backward_microbatch));
        return BackwardWeight(rank, action.backward_stage, action.backward_microbatch);
      case ActionKind::kSendActivation:
        return Send(rank, action, action.stage + 1);
      case ActionKind::kSendGradient:
        return Send(rank, action, action.stage - 1);
      case ActionKind::kReceiveActivation:
      case ActionKind::kReceiveGradient:
        return Receive(rank, action);
    }
    return absl::OkStatus();
  }

  absl::Status Forward(int rank, int stage, int microbatch) {
    Cell& cell = At(stage, microbatch);
    if (cell.forward) return Fault(rank, "this forward ran before");
    if (!cell.has_input) return Fault(rank, "its input is not here");
    cell.forward = true;
    if (Known(stage + 1, microbatch) && schedule_.RankOf(stage + 1, microbatch) == rank) {
      At(stage + 1, microbatch).has_input = true;
    }
    return absl::OkStatus();
  }

  absl::Status BackwardInput(int rank, int stage, int microbatch) {
    Cell& cell = At(stage, microbatch);
    if (cell.backward_input) return Fault(rank, "this backward ran before");
    if (!cell.forward) return Fault(rank, "its forward has not run");
    if (!cell.has_gradient) return Fault(rank, "the gradient of its output is not here");
    cell.backward_input = true;
    if (Known(stage - 1, microbatch) && schedule_.RankOf(stage - 1, microbatch) == rank) {
      At(stage - 1, microbatch).has_gradient = true;
    }
    return absl::OkStatus();
  }

  absl::Status BackwardWeight(int rank, int stage, int microbatch) {
    Cell& cell = At(stage, microbatch);
    if (cell.backward_weight) return Fault(rank, "this weight gradient was computed before");
    if (!cell.backward_input) return Fault(rank, "its input gradient has not been computed");
    int& last = last_weight_[stage][schedule_.replica_of_microbatch[microbatch]];
    if (microbatch < last)
      return Fault(rank, "weight gradients of a stage must ascend in microbatch");
    last = microbatch;
    cell.backward_weight = true;
    return absl::OkStatus();
  }

  absl::Status Send(int rank, const Action& action, int to_stage) {
    const Cell& cell = At(action.stage, action.microbatch);
    const bool activation = action.kind == ActionKind::kSendActivation;
    if (!Known(to_stage, action.microbatch)) return Fault(rank, "there is no stage to send to");
    const int peer = schedule_.RankOf(to_stage, action.microbatch);
    if (peer == rank) return Fault(rank, "the receiving stage is on the same rank");
    if (activation ? !cell.forward : !cell.backward_input)
      return Fault(rank, "there is nothing to send yet");
    channels_[{rank, peer, action.kind, action.stage}].push_back(action.microbatch);
    return absl::OkStatus();
  }

  absl::Status Receive(int rank, const Action& action) {
    if (!HasSource(action)) return Fault(rank, "there is no stage to receive from");
    std::deque<int>& channel = channels_[ReceivedFrom(rank, action)];
    if (channel.front() != action.microbatch) {
      return Fault(rank,
                   absl::StrCat("the message that arrives is of microbatch ", channel.front()));
    }
    channel.pop_front();
    Cell& cell = At(action.stage, action.microbatch);
    bool& arrived =
        action.kind == ActionKind::kReceiveActivation ? cell.has_input : cell.has_gradient;
    if (arrived) return Fault(rank, "this message is already here");
    arrived = true;
    return absl::OkStatus();
  }

  absl::Status CheckFinished() const {
    for (int rank = 0; rank < schedule_.num_ranks(); ++rank) {
      if (next_[rank] < schedule_.actions[rank].size())
        return Fault(rank, "waits for ever: its message is never sent");
    }
    for (int stage = 0; stage < schedule_.num_stages; ++stage) {
      for (int m = 0; m < schedule_.num_microbatches; ++m) {
        const Cell& cell = cells_[stage][m];
        if (cell.forward && cell.backward_input && cell.backward_weight) continue;
        const char* missing = !cell.forward ? "F" : !cell.backward_input ? "I" : "W";
        return Fault(schedule_.RankOf(stage, m),
                     absl::StrCat(missing, stage, ".", m, " is missing"));
      }
    }
    for (const auto& [channel, messages] : channels_) {
      if (!messages.empty()) {
        return Fault(std::get<0>(channel),
                     absl::StrCat("a message to rank ", std::get<1>(channel), " of stage ",
                                  std::get<3>(channel), ", microbatch ", messages.front(),
                                  " is never received"));
      }
    }
    return absl::OkStatus();
  }

  const Schedule& schedule_;
  std::vector<std::vector<Cell>> cells_;
  std::vector<size_t> next_;
  std::vector<std::vector<int>> last_weight_;  // [stage][replica]
  std::map<Channel, std::deque<int>> channels_;
};

}  // namespace

absl::Status Validate(const Schedule& schedule) { return Player(schedule).Play(); }

}  // namespace sluice::parallel
