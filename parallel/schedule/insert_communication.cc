#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "parallel/schedule/play.h"

namespace sluice::parallel {
namespace {

class Inserter {
 public:
  explicit Inserter(const Schedule& schedule) : schedule_(schedule) {}

  std::vector<Action> Run(const std::vector<Action>& actions) {
    out_.clear();
    for (const Action& action : actions) Insert(action);
    return std::move(out_);
  }

 private:
  void Insert(const Action& action) {
    const bool overlap = action.kind == ActionKind::kOverlap;
    const bool forward = overlap || action.kind == ActionKind::kForward;
    const bool backward = overlap || action.kind == ActionKind::kBackward ||
                          action.kind == ActionKind::kBackwardInput;
    const int stage = overlap ? action.backward_stage : action.stage;
    const int microbatch = overlap ? action.backward_microbatch : action.microbatch;
    if (forward && IsRemote(action.stage, action.stage - 1, action.microbatch)) {
      Add(ActionKind::kReceiveActivation, action.stage, action.microbatch);
    }
    if (backward && IsRemote(stage, stage + 1, microbatch))
      Add(ActionKind::kReceiveGradient, stage, microbatch);
    out_.push_back(action);
    if (forward && IsRemote(action.stage, action.stage + 1, action.microbatch)) {
      Add(ActionKind::kSendActivation, action.stage, action.microbatch);
    }
    if (backward && IsRemote(stage, stage - 1, microbatch))
      Add(ActionKind::kSendGradient, stage, microbatch);
  }

  bool IsRemote(int stage, int neighbour, int microbatch) const {
    if (neighbour < 0 || neighbour >= schedule_.num_stages) return false;
    return schedule_.RankOf(stage, microbatch) != schedule_.RankOf(neighbour, microbatch);
  }
  void Add(ActionKind kind, int stage, int microbatch) {
    out_.push_back({kind, static_cast<int16_t>(stage), static_cast<int16_t>(microbatch)});
  }

  const Schedule& schedule_;
  std::vector<Action> out_;
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
  Inserter inserter(schedule);
  std::vector<std::vector<Action>> all;
  for (const std::vector<Action>& actions : schedule.actions) {
    for (const Action& action : actions) RETURN_IF_ERROR(CheckAction(schedule, action));
    all.push_back(inserter.Run(actions));
  }
  schedule.actions = std::move(all);
  return schedule;
}

}  // namespace sluice::parallel
