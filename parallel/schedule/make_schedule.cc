#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "parallel/schedule/schedule.h"

namespace sluice::parallel {
namespace {

constexpr char kKnownNames[] = "gpipe, 1f1b, interleaved, zb_h1, dualpipe or dualpipe_v";

absl::StatusOr<Schedule> MakeActions(absl::string_view name, const PipelineShape& shape) {
  const std::string lower = absl::AsciiStrToLower(name);
  if (lower == "gpipe") return MakeGPipe(shape);
  if (lower == "1f1b") return Make1F1B(shape);
  if (lower == "interleaved") return MakeInterleaved(shape);
  if (lower == "zb_h1") return MakeZbH1(shape);
  if (lower == "dualpipe") return MakeDualPipe(shape);
  if (lower == "dualpipe_v") return MakeDualPipeV(shape);
  return absl::InvalidArgumentError(
      absl::StrCat("schedule: found \"", name, "\", wanted ", kKnownNames));
}

}  // namespace

int MicrobatchUnit(absl::string_view name, int num_ranks) {
  const std::string lower = absl::AsciiStrToLower(name);
  if (lower == "dualpipe" || lower == "dualpipe_v") return 2 * num_ranks;
  return lower == "interleaved" ? num_ranks : 1;
}

int DefaultChunks(absl::string_view name) {
  const std::string lower = absl::AsciiStrToLower(name);
  return lower == "interleaved" || lower == "dualpipe_v" ? 2 : 1;
}

std::vector<int> Schedule::StagesOn(int rank) const {
  std::vector<int> stages;
  for (int stage = 0; stage < num_stages; ++stage) {
    for (const std::vector<int>& ranks : rank_of_stage) {
      if (ranks[stage] != rank) continue;
      stages.push_back(stage);
      break;
    }
  }
  return stages;
}

absl::StatusOr<Schedule> MakeSchedule(absl::string_view name, const PipelineShape& shape) {
  ASSIGN_OR_RETURN(Schedule actions, MakeActions(name, shape));
  ASSIGN_OR_RETURN(Schedule schedule, InsertCommunication(std::move(actions)));
  RETURN_IF_ERROR(Validate(schedule));
  return schedule;
}

}  // namespace sluice::parallel
