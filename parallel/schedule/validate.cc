#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/status_macros.h"
#include "parallel/schedule/new_schedule.h"
#include "parallel/schedule/play.h"

namespace sluice::parallel {
namespace {

using internal::IsMessage;
using internal::IsOn;
using internal::MakeAction;

// What must happen exactly once for a stage and microbatch, kBackward counting as two of them.
constexpr std::array kOnce = {
    ActionKind::kForward,           ActionKind::kBackwardInput,  ActionKind::kBackwardWeight,
    ActionKind::kReceiveActivation, ActionKind::kSendActivation, ActionKind::kReceiveGradient,
    ActionKind::kSendGradient,
};

// An action as the things of kOnce that it does.
std::vector<Action> PartsOf(const Action& action) {
  switch (action.kind) {
    case ActionKind::kBackward:
      return {MakeAction(ActionKind::kBackwardInput, action.stage, action.microbatch),
              MakeAction(ActionKind::kBackwardWeight, action.stage, action.microbatch)};
    case ActionKind::kOverlap:
      return {
          MakeAction(ActionKind::kForward, action.stage, action.microbatch),
          MakeAction(ActionKind::kBackwardInput, action.backward_stage, action.backward_microbatch),
          MakeAction(ActionKind::kBackwardWeight, action.backward_stage,
                     action.backward_microbatch)};
    case ActionKind::kForward:
    case ActionKind::kBackwardInput:
    case ActionKind::kBackwardWeight:
    case ActionKind::kSendActivation:
    case ActionKind::kReceiveActivation:
    case ActionKind::kSendGradient:
    case ActionKind::kReceiveGradient:
      return {action};
  }
  return {};
}

// The other end of a message: the stage after or before this one; -1 for what is no message.
int StageAtOtherEnd(const Action& action) {
  switch (action.kind) {
    case ActionKind::kSendActivation:
    case ActionKind::kReceiveGradient:
      return action.stage + 1;
    case ActionKind::kReceiveActivation:
    case ActionKind::kSendGradient:
      return action.stage - 1;
    case ActionKind::kForward:
    case ActionKind::kBackwardInput:
    case ActionKind::kBackwardWeight:
    case ActionKind::kBackward:
    case ActionKind::kOverlap:
      return -1;
  }
  return -1;
}

bool IsReceive(ActionKind kind) {
  return kind == ActionKind::kReceiveActivation || kind == ActionKind::kReceiveGradient;
}

// The send that a receive waits for.
Action SendOf(const Action& receive) {
  return MakeAction(receive.kind == ActionKind::kReceiveActivation ? ActionKind::kSendActivation
                                                                   : ActionKind::kSendGradient,
                    StageAtOtherEnd(receive), receive.microbatch);
}

absl::string_view WhatIsMissing(ActionKind kind) {
  switch (kind) {
    case ActionKind::kForward:
      return "its input is not there yet";
    case ActionKind::kBackward:
    case ActionKind::kBackwardInput:
      return "its forward or the gradient of its output is not there yet";
    case ActionKind::kBackwardWeight:
      return "its input gradient (I or B) is not there yet";
    case ActionKind::kOverlap:
      return "an input of its forward or of its backward is not there yet";
    case ActionKind::kSendActivation:
    case ActionKind::kSendGradient:
      return "there is nothing to send yet";
    case ActionKind::kReceiveActivation:
    case ActionKind::kReceiveGradient:
      return "its message is never sent";
  }
  return "";
}

class Validator {
 public:
  explicit Validator(const Schedule& schedule) : schedule_(schedule) {}

  // In this order, because each check relies on those before it.
  absl::Status Run() const {
    RETURN_IF_ERROR(CheckTables());
    RETURN_IF_ERROR(CheckPlaces());
    RETURN_IF_ERROR(CheckCounts());
    RETURN_IF_ERROR(CheckWeightOrder());
    RETURN_IF_ERROR(CheckMessageOrder());
    return CheckProgress();
  }

 private:
  absl::Status Fault(int rank, int step, absl::string_view what) const {
    const auto& actions = schedule_.actions[rank];
    const std::string place = step < static_cast<int>(actions.size())
                                  ? absl::StrCat("action ", step, " ", ToText(actions[step]))
                                  : "end";
    return absl::InvalidArgumentError(absl::StrCat("schedule ", schedule_.name, ", rank ", rank,
                                                   ", ", place, ": ", what, "\n",
                                                   DrawGrid(schedule_, rank, step)));
  }

  template <typename Visit>  // absl::Status visit(rank, step, action)
  absl::Status ForEachAction(const Visit& visit) const {
    for (int rank = 0; rank < schedule_.num_ranks(); ++rank) {
      const std::vector<Action>& actions = schedule_.actions[rank];
      for (int step = 0; step < static_cast<int>(actions.size()); ++step) {
        RETURN_IF_ERROR(visit(rank, step, actions[step]));
      }
    }
    return absl::OkStatus();
  }

  // Without these there is no grid to draw.
  absl::Status CheckTables() const {
    const auto fault = [&](const auto&... what) {
      return absl::InvalidArgumentError(absl::StrCat("schedule ", schedule_.name, ": ", what...));
    };
    const int num_replicas = static_cast<int>(schedule_.rank_of_stage.size());
    if (schedule_.num_stages < 1 || schedule_.num_microbatches < 1 || schedule_.num_ranks() < 1) {
      return fault("found ", schedule_.num_stages, " stages, ", schedule_.num_microbatches,
                   " microbatches, ", schedule_.num_ranks(), " ranks, wanted each at least 1");
    }
    for (const std::vector<int>& ranks : schedule_.rank_of_stage) {
      if (static_cast<int>(ranks.size()) != schedule_.num_stages) {
        return fault("rank_of_stage has ", ranks.size(), " stages, wanted ", schedule_.num_stages);
      }
      for (const int rank : ranks) {
        if (rank >= 0 && rank < schedule_.num_ranks()) continue;
        return fault("rank_of_stage has rank ", rank, ", wanted below ", schedule_.num_ranks());
      }
    }
    if (static_cast<int>(schedule_.replica_of_microbatch.size()) != schedule_.num_microbatches) {
      return fault("replica_of_microbatch has ", schedule_.replica_of_microbatch.size(),
                   " microbatches, wanted ", schedule_.num_microbatches);
    }
    for (const int replica : schedule_.replica_of_microbatch) {
      if (replica >= 0 && replica < num_replicas) continue;
      return fault("replica_of_microbatch has replica ", replica, ", wanted below ", num_replicas);
    }
    return absl::OkStatus();
  }

  // Each action is of this rank, each message goes to another one.
  absl::Status CheckPlaces() const {
    return ForEachAction([&](int rank, int step, const Action& action) {
      for (const Action& part : PartsOf(action)) {
        if (IsOn(schedule_, rank, part.stage, part.microbatch)) continue;
        return Fault(rank, step,
                     "its stage is not on this rank, or there is no such stage or microbatch");
      }
      if (!IsMessage(action.kind)) return absl::OkStatus();
      if (IsRemote(rank, StageAtOtherEnd(action), action.microbatch)) return absl::OkStatus();
      return Fault(rank, step, "there is no other rank at the other end of this message");
    });
  }

  bool IsRemote(int rank, int stage, int microbatch) const {
    return stage >= 0 && stage < schedule_.num_stages &&
           schedule_.RankOf(stage, microbatch) != rank;
  }

  absl::Status CheckCounts() const {
    const int n = schedule_.num_microbatches;
    using Counts = std::array<bool, static_cast<size_t>(ActionKind::kReceiveGradient) + 1>;
    std::vector<Counts> done(static_cast<size_t>(schedule_.num_stages) * n);
    RETURN_IF_ERROR(ForEachAction([&](int rank, int step, const Action& action) {
      for (const Action& part : PartsOf(action)) {
        bool& is_done = done[part.stage * n + part.microbatch][static_cast<size_t>(part.kind)];
        if (is_done) return Fault(rank, step, absl::StrCat(ToText(part), " was done before"));
        is_done = true;
      }
      return absl::OkStatus();
    }));
    for (int stage = 0; stage < schedule_.num_stages; ++stage) {
      for (int m = 0; m < n; ++m) {
        const int rank = schedule_.RankOf(stage, m);
        for (const ActionKind kind : kOnce) {
          const Action action = MakeAction(kind, stage, m);
          if (IsMessage(kind) && !IsRemote(rank, StageAtOtherEnd(action), m)) continue;
          if (done[stage * n + m][static_cast<size_t>(kind)]) continue;
          return Fault(rank, static_cast<int>(schedule_.actions[rank].size()),
                       absl::StrCat(ToText(action), " is missing"));
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckWeightOrder() const {
    std::map<std::pair<int, int>, int> newest;  // (rank, stage) -> microbatch
    return ForEachAction([&](int rank, int step, const Action& action) {
      for (const Action& part : PartsOf(action)) {
        if (part.kind != ActionKind::kBackwardWeight) continue;
        const auto [place, is_first] = newest.try_emplace({rank, part.stage}, part.microbatch);
        if (!is_first && part.microbatch < place->second) {
          return Fault(rank, step,
                       absl::StrCat("weight gradients of a stage must ascend in microbatch, and ",
                                    place->second, " came before"));
        }
        place->second = part.microbatch;
      }
      return absl::OkStatus();
    });
  }

  // On every ordered pair of ranks the receives are the sends in the same order, so that a library
  // without tags may carry them too.
  absl::Status CheckMessageOrder() const {
    std::map<std::pair<int, int>, std::vector<Action>> sends;  // (from, to)
    std::map<std::pair<int, int>, size_t> num_received;
    RETURN_IF_ERROR(ForEachAction([&](int rank, int /*step*/, const Action& action) {
      if (!IsMessage(action.kind) || IsReceive(action.kind)) return absl::OkStatus();
      sends[{rank, schedule_.RankOf(StageAtOtherEnd(action), action.microbatch)}].push_back(action);
      return absl::OkStatus();
    }));
    return ForEachAction([&](int rank, int step, const Action& action) {
      if (!IsReceive(action.kind)) return absl::OkStatus();
      const int from = schedule_.RankOf(StageAtOtherEnd(action), action.microbatch);
      // CheckCounts: as many sends as receives.
      const Action& sent = sends[{from, rank}][num_received[{from, rank}]++];
      if (sent == SendOf(action)) return absl::OkStatus();
      return Fault(rank, step,
                   absl::StrCat("the next message from rank ", from, " is ", ToText(sent)));
    });
  }

  absl::Status CheckProgress() const {
    const internal::Playback playback = internal::Play(schedule_);
    const auto is_stuck = [&](int rank) {
      return playback.num_done[rank] < static_cast<int>(schedule_.actions[rank].size());
    };
    const auto action_of = [&](int rank) -> const Action& {
      return schedule_.actions[rank][playback.num_done[rank]];
    };
    int waiting = -1;
    for (int rank = schedule_.num_ranks() - 1; rank >= 0; --rank) {
      if (!is_stuck(rank)) continue;
      if (!IsReceive(action_of(rank).kind)) {
        return Fault(rank, playback.num_done[rank], WhatIsMissing(action_of(rank).kind));
      }
      waiting = rank;
    }
    if (waiting < 0) return absl::OkStatus();
    // Every stuck rank waits for a message that another stuck rank has yet to send: a circle.
    std::vector<int> path;
    while (std::find(path.begin(), path.end(), waiting) == path.end()) {
      path.push_back(waiting);
      const Action& receive = action_of(waiting);
      waiting = schedule_.RankOf(StageAtOtherEnd(receive), receive.microbatch);
    }
    path.erase(path.begin(), std::find(path.begin(), path.end(), waiting));
    std::vector<std::string> circle;
    for (const int rank : path) {
      const Action send = SendOf(action_of(rank));
      circle.push_back(absl::StrCat("rank ", rank, " waits for ", ToText(send), " of rank ",
                                    schedule_.RankOf(send.stage, send.microbatch)));
    }
    return Fault(waiting, playback.num_done[waiting],
                 absl::StrCat("deadlock: ", absl::StrJoin(circle, ", ")));
  }

  const Schedule& schedule_;
};

}  // namespace

absl::Status Validate(const Schedule& schedule) { return Validator(schedule).Run(); }

}  // namespace sluice::parallel
