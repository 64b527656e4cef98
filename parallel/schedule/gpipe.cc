#include "kernels/core/status_macros.h"
#include "parallel/schedule/new_schedule.h"

namespace sluice::parallel {

absl::StatusOr<Schedule> MakeGPipe(const PipelineShape& shape) {
  RETURN_IF_ERROR(internal::CheckOneChunk("gpipe", shape));
  Schedule schedule = internal::NewSchedule("gpipe", shape);
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    // Backwards ascend too: the paper's descending order would sum weight gradients the other way
    // round than every other schedule.
    for (const ActionKind kind : {ActionKind::kForward, ActionKind::kBackward}) {
      for (int m = 0; m < shape.num_microbatches; ++m) {
        schedule.actions[rank].push_back(internal::MakeAction(kind, rank, m));
      }
    }
  }
  return schedule;
}

}  // namespace sluice::parallel
