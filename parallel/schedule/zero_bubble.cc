#include <algorithm>

#include "kernels/core/status_macros.h"
#include "parallel/schedule/new_schedule.h"

namespace sluice::parallel {

absl::StatusOr<Schedule> MakeZbH1(const PipelineShape& shape) {
  RETURN_IF_ERROR(internal::CheckOneChunk("zb_h1", shape));
  Schedule schedule = internal::NewSchedule("zb_h1", shape);
  const int n = shape.num_microbatches;
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    std::vector<Action>& actions = schedule.actions[rank];
    const auto add = [&](ActionKind kind, int microbatch) {
      actions.push_back(internal::MakeAction(kind, rank, microbatch));
    };
    // As 1F1B, but rank r puts off each weight gradient by r microbatches: it holds r activations
    // more and so P in all, as rank 0 does, and fills the drain with what it put off.
    const int ahead = std::min(n, shape.num_ranks - 1 - rank);
    for (int m = 0; m < ahead; ++m) add(ActionKind::kForward, m);
    for (int m = 0; m < n; ++m) {
      if (m + ahead < n) add(ActionKind::kForward, m + ahead);
      add(ActionKind::kBackwardInput, m);
      if (m >= rank) add(ActionKind::kBackwardWeight, m - rank);
    }
    for (int m = std::max(0, n - rank); m < n; ++m) add(ActionKind::kBackwardWeight, m);
  }
  return schedule;
}

}  // namespace sluice::parallel
