#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "parallel/schedule/new_schedule.h"

namespace sluice::parallel {
namespace {

// The k-th forward (backward) of a rank: groups of P microbatches pass through all chunks in turn,
// backwards through the last chunk first.
Action KthAction(const PipelineShape& shape, ActionKind kind, int rank, int64_t k) {
  const int ranks = shape.num_ranks, chunks = shape.chunks;
  const int group = static_cast<int>(k / (ranks * chunks));
  const int inside = static_cast<int>(k % (ranks * chunks));
  const int turn = inside / ranks;
  const int chunk = kind == ActionKind::kForward ? turn : chunks - 1 - turn;
  return internal::MakeAction(kind, chunk * ranks + rank, group * ranks + inside % ranks);
}

}  // namespace

absl::StatusOr<Schedule> MakeInterleaved(const PipelineShape& shape) {
  RETURN_IF_ERROR(internal::CheckShape(shape));
  const int ranks = shape.num_ranks, chunks = shape.chunks, n = shape.num_microbatches;
  if (chunks < 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "schedule_chunks: found ", chunks, ", wanted at least 2 with schedule interleaved"));
  }
  if (n % ranks != 0) {
    return absl::InvalidArgumentError(absl::StrCat("microbatches: found ", n,
                                                   ", wanted a multiple of mesh.pipe = ", ranks,
                                                   " with schedule interleaved"));
  }
  Schedule schedule = internal::NewSchedule("interleaved", shape);
  const int64_t total = int64_t{n} * chunks;
  for (int rank = 0; rank < ranks; ++rank) {
    // Forwards before the steady state, as in the paper: one round trip of the pipeline per rank
    // that follows, and all chunks but the last of the first group.
    const int64_t ahead =
        std::min<int64_t>(total, (ranks - 1 - rank) * 2 + int64_t{chunks - 1} * ranks);
    std::vector<Action>& actions = schedule.actions[rank];
    for (int64_t k = 0; k < ahead; ++k) {
      actions.push_back(KthAction(shape, ActionKind::kForward, rank, k));
    }
    for (int64_t k = 0; k < total; ++k) {
      if (k + ahead < total) {
        actions.push_back(KthAction(shape, ActionKind::kForward, rank, k + ahead));
      }
      actions.push_back(KthAction(shape, ActionKind::kBackward, rank, k));
    }
  }
  return schedule;
}

}  // namespace sluice::parallel
