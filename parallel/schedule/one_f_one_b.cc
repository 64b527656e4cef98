#include <algorithm>

#include "kernels/core/status_macros.h"
#include "parallel/schedule/new_schedule.h"

namespace sluice::parallel {

absl::StatusOr<Schedule> Make1F1B(const PipelineShape& shape) {
  RETURN_IF_ERROR(internal::CheckOneChunk("1f1b", shape));
  Schedule schedule = internal::NewSchedule("1f1b", shape);
  const int n = shape.num_microbatches;
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    std::vector<Action>& actions = schedule.actions[rank];
    const int ahead = std::min(n, shape.num_ranks - 1 - rank);  // forwards before the steady state
    for (int m = 0; m < ahead; ++m) {
      actions.push_back(internal::MakeAction(ActionKind::kForward, rank, m));
    }
    for (int m = 0; m < n; ++m) {
      if (m + ahead < n) {
        actions.push_back(internal::MakeAction(ActionKind::kForward, rank, m + ahead));
      }
      actions.push_back(internal::MakeAction(ActionKind::kBackward, rank, m));
    }
  }
  return schedule;
}

}  // namespace sluice::parallel
