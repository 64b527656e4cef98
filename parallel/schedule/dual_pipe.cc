#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "parallel/schedule/dual_pipe_steps.h"
#include "parallel/schedule/new_schedule.h"

namespace sluice::parallel {

absl::StatusOr<Schedule> MakeDualPipe(const PipelineShape& shape) {
  RETURN_IF_ERROR(internal::CheckOneChunk("dualpipe", shape));
  const int ranks = shape.num_ranks, n = shape.num_microbatches;
  if (ranks % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("mesh.pipe: found ", ranks, ", wanted an even number with schedule dualpipe"));
  }
  if (n % 2 != 0 || n < 2 * ranks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "microbatches: found ", n, ", wanted an even number of at least 2 * mesh.pipe = ",
        2 * ranks, " with schedule dualpipe"));
  }
  Schedule schedule = internal::NewSchedule("dualpipe", shape);
  // The second replica runs the other way; the second half of the microbatches takes it.
  schedule.rank_of_stage.push_back(schedule.rank_of_stage[0]);
  std::reverse(schedule.rank_of_stage[1].begin(), schedule.rank_of_stage[1].end());
  for (int m = n / 2; m < n; ++m) schedule.replica_of_microbatch[m] = 1;
  for (int rank = 0; rank < ranks; ++rank) {
    const internal::Direction down = {rank, 0}, up = {ranks - 1 - rank, n / 2};
    const bool first_half = rank < ranks / 2;
    internal::DualPipeRank part;
    part.directions = {first_half ? down : up, first_half ? up : down};
    part.depth = ranks / 2;
    part.distance = std::min(rank, ranks - 1 - rank);
    part.num_microbatches = n / 2;
    schedule.actions[rank] = internal::DualPipeActions(part);
  }
  return schedule;
}

}  // namespace sluice::parallel
