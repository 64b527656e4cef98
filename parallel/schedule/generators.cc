#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "parallel/schedule/schedule.h"

namespace sluice::parallel {
namespace {

absl::Status CheckShape(const PipelineShape& shape) {
  if (shape.num_ranks < 1 || shape.num_microbatches < 1 || shape.chunks < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("pipeline: found ", shape.num_ranks, " ranks, ", shape.num_microbatches,
                     " microbatches, ", shape.chunks, " chunks, wanted each at least 1"));
  }
  return absl::OkStatus();
}

// Stage s lives on rank s mod P.
Schedule NewSchedule(const char* name, const PipelineShape& shape) {
  Schedule schedule;
  schedule.name = name;
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

Action Make(ActionKind kind, int stage, int microbatch) {
  return {kind, static_cast<int16_t>(stage), static_cast<int16_t>(microbatch)};
}

absl::Status OneChunk(const char* name, const PipelineShape& shape) {
  RETURN_IF_ERROR(CheckShape(shape));
  if (shape.chunks != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("schedule_chunks: found ", shape.chunks, ", wanted 1 with schedule ", name));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Schedule> MakeGPipe(const PipelineShape& shape) {
  RETURN_IF_ERROR(OneChunk("gpipe", shape));
  Schedule schedule = NewSchedule("gpipe", shape);
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    std::vector<Action>& actions = schedule.actions[rank];
    for (int m = 0; m < shape.num_microbatches; ++m)
      actions.push_back(Make(ActionKind::kForward, rank, m));
    for (int m = 0; m < shape.num_microbatches; ++m)
      actions.push_back(Make(ActionKind::kBackward, rank, m));
  }
  return schedule;
}

absl::StatusOr<Schedule> Make1F1B(const PipelineShape& shape) {
  RETURN_IF_ERROR(OneChunk("1f1b", shape));
  Schedule schedule = NewSchedule("1f1b", shape);
  const int n = shape.num_microbatches;
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    std::vector<Action>& actions = schedule.actions[rank];
    const int ahead =
        std::min(n, shape.num_ranks - 1 - rank);  // forwards before the first backward's own
    for (int m = 0; m < ahead; ++m) actions.push_back(Make(ActionKind::kForward, rank, m));
    for (int m = 0; m < n; ++m) {
      if (m + ahead < n) actions.push_back(Make(ActionKind::kForward, rank, m + ahead));
      actions.push_back(Make(ActionKind::kBackward, rank, m));
    }
  }
  return schedule;
}

absl::StatusOr<Schedule> MakeInterleaved(const PipelineShape& shape) {
  RETURN_IF_ERROR(CheckShape(shape));
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
  Schedule schedule = NewSchedule("interleaved", shape);
  const int total = n * chunks;
  // The k-th forward (backward) of a rank: groups of P microbatches go through all chunks in turn.
  const auto make = [&](ActionKind kind, int rank, int k) {
    const int group = k / (ranks * chunks), inside = k % (ranks * chunks);
    const int step = inside / ranks;
    const int chunk = kind == ActionKind::kForward ? step : chunks - 1 - step;
    return Make(kind, chunk * ranks + rank, group * ranks + inside % ranks);
  };
  for (int rank = 0; rank < ranks; ++rank) {
    const int ahead = std::min(total, (ranks - 1 - rank) * 2 + (chunks - 1) * ranks);
    std::vector<Action>& actions = schedule.actions[rank];
    for (int k = 0; k < ahead; ++k) actions.push_back(make(ActionKind::kForward, rank, k));
    for (int k = 0; k < total; ++k) {
      if (k + ahead < total) actions.push_back(make(ActionKind::kForward, rank, k + ahead));
      actions.push_back(make(ActionKind::kBackward, rank, k));
    }
  }
  return schedule;
}

absl::StatusOr<Schedule> MakeSchedule(absl::string_view name, const PipelineShape& shape) {
  const std::string lower = absl::AsciiStrToLower(name);
  absl::StatusOr<Schedule> made;
  if (lower == "gpipe") {
    made = MakeGPipe(shape);
  } else if (lower == "1f1b") {
    made = Make1F1B(shape);
  } else if (lower == "interleaved") {
    made = MakeInterleaved(shape);
  } else if (lower == "zb_h1" || lower == "dualpipe" || lower == "dualpipe_v") {
    return absl::UnimplementedError(absl::StrCat(
        "schedule: found ", lower, ", which is not built yet; wanted gpipe, 1f1b or interleaved"));
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("schedule: found \"", name, "\", wanted gpipe, 1f1b or interleaved"));
  }
  RETURN_IF_ERROR(made.status());
  ASSIGN_OR_RETURN(Schedule schedule, InsertCommunication(*std::move(made)));
  RETURN_IF_ERROR(Validate(schedule));
  return schedule;
}

}  // namespace sluice::parallel
