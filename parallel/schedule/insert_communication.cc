#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "parallel/schedule/new_schedule.h"
#include "parallel/schedule/play.h"

namespace sluice::parallel {
namespace {

// Which messages an action needs and makes.
class Messages {
 public:
  explicit Messages(const Schedule& schedule) : schedule_(schedule) {}

  std::vector<Action> ReceivesOf(const Action& action) const {
    std::vector<Action> receives;
    if (HasForward(action) && IsRemote(action.stage, action.stage - 1, action.microbatch)) {
      receives.push_back(Make(ActionKind::kReceiveActivation, action.stage, action.microbatch));
    }
    const auto [stage, microbatch] = BackwardOf(action);
    if (HasBackward(action) && IsRemote(stage, stage + 1, microbatch)) {
      receives.push_back(Make(ActionKind::kReceiveGradient, stage, microbatch));
    }
    return receives;
  }
  std::vector<Action> SendsOf(const Action& action) const {
    std::vector<Action> sends;
    if (HasForward(action) && IsRemote(action.stage, action.stage + 1, action.microbatch)) {
      sends.push_back(Make(ActionKind::kSendActivation, action.stage, action.microbatch));
    }
    const auto [stage, microbatch] = BackwardOf(action);
    if (HasBackward(action) && IsRemote(stage, stage - 1, microbatch)) {
      sends.push_back(Make(ActionKind::kSendGradient, stage, microbatch));
    }
    return sends;
  }
  // The receive of what `send` sends.
  static Action ReceiveOf(const Action& send) {
    return send.kind == ActionKind::kSendActivation
               ? Make(ActionKind::kReceiveActivation, send.stage + 1, send.microbatch)
               : Make(ActionKind::kReceiveGradient, send.stage - 1, send.microbatch);
  }

 private:
  static Action Make(ActionKind kind, int stage, int microbatch) {
    return internal::MakeAction(kind, stage, microbatch);
  }
  static bool HasForward(const Action& action) {
    return action.kind == ActionKind::kForward || action.kind == ActionKind::kOverlap;
  }
  static bool HasBackward(const Action& action) {
    return action.kind == ActionKind::kBackward || action.kind == ActionKind::kBackwardInput ||
           action.kind == ActionKind::kOverlap;
  }
  static std::pair<int, int> BackwardOf(const Action& action) {
    if (action.kind != ActionKind::kOverlap) return {action.stage, action.microbatch};
    return {action.backward_stage, action.backward_microbatch};
  }
  bool IsRemote(int stage, int neighbour, int microbatch) const {
    if (neighbour < 0 || neighbour >= schedule_.num_stages) return false;
    return schedule_.RankOf(stage, microbatch) != schedule_.RankOf(neighbour, microbatch);
  }
  const Schedule& schedule_;
};

// Receives before their use and in the order in which their sender sends. Where two directions
// share a pair of ranks (DualPipe), a message that is used later may have been sent earlier: it is
// received with the one that needs it, which costs a buffer and no time.
class Inserter {
 public:
  explicit Inserter(const Schedule& schedule)
      : messages_(schedule), arriving_(schedule.num_ranks()), schedule_(schedule) {
    for (int rank = 0; rank < schedule.num_ranks(); ++rank) {
      for (const Action& action : schedule.actions[rank]) {
        for (const Action& send : messages_.SendsOf(action)) {
          const Action receive = Messages::ReceiveOf(send);
          arriving_[schedule.RankOf(receive.stage, receive.microbatch)][rank].push_back(receive);
        }
      }
    }
  }

  std::vector<Action> Run(int rank) {
    std::vector<Action> out;
    for (const Action& action : schedule_.actions[rank]) {
      for (const Action& receive : messages_.ReceivesOf(action)) Receive(rank, receive, out);
      out.push_back(action);
      for (const Action& send : messages_.SendsOf(action)) out.push_back(send);
    }
    return out;
  }

 private:
  void Receive(int rank, const Action& receive, std::vector<Action>& out) {
    const bool is_activation = receive.kind == ActionKind::kReceiveActivation;
    const int sender =
        schedule_.RankOf(receive.stage + (is_activation ? -1 : 1), receive.microbatch);
    std::deque<Action>& queue = arriving_[rank][sender];
    const auto place = std::find(queue.begin(), queue.end(), receive);
    if (place == queue.end()) {
      // Received before, or never sent: for Validate to find.
      if (received_.count(receive) == 0) out.push_back(receive);
      return;
    }
    out.insert(out.end(), queue.begin(), place + 1);
    received_.insert(queue.begin(), place + 1);
    queue.erase(queue.begin(), place + 1);
  }

  const Messages messages_;
  std::vector<std::map<int, std::deque<Action>>> arriving_;  // [rank][sender], not yet received
  std::set<Action> received_;
  const Schedule& schedule_;
};

// What Insert looks up has to exist; the rest is for Validate to find.
absl::Status CheckAction(const Schedule& schedule, const Action& action) {
  const auto is_known = [&](int stage, int microbatch) {
    return stage >= 0 && stage < schedule.num_stages && microbatch >= 0 &&
           microbatch < schedule.num_microbatches;
  };
  if (internal::IsMessage(action.kind)) {
    return absl::InvalidArgumentError(
        absl::StrCat("schedule ", schedule.name, ": found ", ToText(action),
                     ", wanted a schedule without sends and receives"));
  }
  if (is_known(action.stage, action.microbatch) &&
      (action.kind != ActionKind::kOverlap ||
       is_known(action.backward_stage, action.backward_microbatch))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("schedule ", schedule.name, ": found ", ToText(action), ", wanted stages below ",
                   schedule.num_stages, " and microbatches below ", schedule.num_microbatches));
}

}  // namespace

absl::StatusOr<Schedule> InsertCommunication(Schedule schedule) {
  for (const std::vector<Action>& actions : schedule.actions) {
    for (const Action& action : actions) RETURN_IF_ERROR(CheckAction(schedule, action));
  }
  Inserter inserter(schedule);
  std::vector<std::vector<Action>> all;
  for (int rank = 0; rank < schedule.num_ranks(); ++rank) all.push_back(inserter.Run(rank));
  schedule.actions = std::move(all);
  return schedule;
}

}  // namespace sluice::parallel
