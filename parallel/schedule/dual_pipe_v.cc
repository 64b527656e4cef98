#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "parallel/schedule/dual_pipe_steps.h"
#include "parallel/schedule/new_schedule.h"

namespace sluice::parallel {

absl::StatusOr<Schedule> MakeDualPipeV(const PipelineShape& shape) {
  RETURN_IF_ERROR(internal::CheckShape(shape));
  const int ranks = shape.num_ranks, n = shape.num_microbatches;
  if (shape.chunks != 2) {
    return absl::InvalidArgumentError(absl::StrCat("schedule_chunks: found ", shape.chunks,
                                                   ", wanted 2 with schedule dualpipe_v"));
  }
  if (n < 2 * ranks) {
    return absl::InvalidArgumentError(absl::StrCat("microbatches: found ", n,
                                                   ", wanted at least 2 * mesh.pipe = ", 2 * ranks,
                                                   " with schedule dualpipe_v"));
  }
  Schedule schedule = internal::NewSchedule("dualpipe_v", shape);
  // Down the ranks and up again: the first and the last stage are both on rank 0.
  for (int rank = 0; rank < ranks; ++rank) {
    schedule.rank_of_stage[0][2 * ranks - 1 - rank] = rank;
    internal::DualPipeRank part;
    part.directions = {internal::Direction{rank, 0}, internal::Direction{2 * ranks - 1 - rank, 0}};
    part.depth = ranks;
    part.distance = rank;
    part.num_microbatches = n;
    schedule.actions[rank] = internal::DualPipeActions(part);
  }
  return schedule;
}

}  // namespace sluice::parallel
