#include "parallel/schedule/new_schedule.h"

#include <cstdint>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace sluice::parallel::internal {

absl::Status CheckShape(const PipelineShape& shape) {
  if (shape.num_ranks < 1 || shape.num_microbatches < 1 || shape.chunks < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("pipeline: found ", shape.num_ranks, " ranks, ", shape.num_microbatches,
                     " microbatches, ", shape.chunks, " chunks, wanted each at least 1"));
  }
  constexpr int kMost = std::numeric_limits<int16_t>::max();
  const int64_t stages = int64_t{shape.num_ranks} * shape.chunks;
  if (stages > kMost || shape.num_microbatches > kMost) {
    return absl::InvalidArgumentError(absl::StrCat("pipeline: found ", stages, " stages, ",
                                                   shape.num_microbatches,
                                                   " microbatches, wanted each at most ", kMost));
  }
  return absl::OkStatus();
}

absl::Status CheckOneChunk(absl::string_view name, const PipelineShape& shape) {
  RETURN_IF_ERROR(CheckShape(shape));
  if (shape.chunks != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("schedule_chunks: found ", shape.chunks, ", wanted 1 with schedule ", name));
  }
  return absl::OkStatus();
}

Schedule NewSchedule(absl::string_view name, const PipelineShape& shape) {
  Schedule schedule;
  schedule.name = std::string(name);
  schedule.num_stages = shape.num_ranks * shape.chunks;
  schedule.num_microbatches = shape.num_microbatches;
  schedule.rank_of_stage.resize(1);
  for (int stage = 0; stage < schedule.num_stages; ++stage) {
    schedule.rank_of_stage[0].push_back(stage % shape.num_ranks);
  }
  schedule.replica_of_microbatch.assign(shape.num_microbatches, 0);
  schedule.actions.resize(shape.num_ranks);
  return schedule;
}

}  // namespace sluice::parallel::internal
