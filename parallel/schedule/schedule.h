// A pipeline schedule as data: for each rank the list of actions that it runs, in order. Built
// once, validated once, then read by the executor, the simulator and the printer alike.   P ranks
// of the pipeline, n microbatches
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::parallel {

enum class ActionKind : uint8_t {
  kForward,            // F2.5: forward of stage 2, microbatch 5
  kBackwardInput,      // I2.5: gradients of activations
  kBackwardWeight,     // W2.5: gradients of weights
  kBackward,           // B2.5: I then W
  kOverlap,            // (F2.5|B1.3): a forward interleaved with a backward
  kSendActivation,     // sa2.5: output of stage 2 to stage 3
  kReceiveActivation,  // ra2.5: input of stage 2 from stage 1
  kSendGradient,       // sg2.5: gradient of the input of stage 2 to stage 1
  kReceiveGradient,    // rg2.5: gradient of the output of stage 2 from stage 3
};

struct Action {
  ActionKind kind = ActionKind::kForward;
  int16_t stage = 0, microbatch = 0;
  int16_t backward_stage = -1, backward_microbatch = -1;  // kOverlap only
  friend auto operator<=>(const Action&, const Action&) = default;
};

struct Schedule {
  std::string name;
  int num_stages = 0, num_microbatches = 0;
  std::vector<std::vector<int>> rank_of_stage;  // [replica][stage]; two replicas for DualPipe
  std::vector<int> replica_of_microbatch;       // [microbatch]
  std::vector<std::vector<Action>> actions;     // [rank][step]

  int num_ranks() const { return static_cast<int>(actions.size()); }
  int num_replicas() const { return static_cast<int>(rank_of_stage.size()); }
  int RankOf(int stage, int microbatch) const {
    return rank_of_stage[replica_of_microbatch[microbatch]][stage];
  }
  // The stages of all replicas that a rank holds, ascending.
  std::vector<int> StagesOn(int rank) const;
};

struct PipelineShape {
  int num_ranks = 1, num_microbatches = 1;
  int chunks = 1;  // stages a rank holds (interleaved: virtual stages)
};

// gpipe: all forwards, then all backwards (Huang et al. 2019). 1f1b: PipeDream-Flush. interleaved:
// Narayanan et al. 2021 (arXiv 2104.04473), chunks >= 2, num_microbatches divisible by num_ranks.
// gpipe runs its backwards in ascending order too, because weight gradients ascend everywhere.
// All without sends and receives. INVALID_ARGUMENT names what does not fit.
absl::StatusOr<Schedule> MakeGPipe(const PipelineShape& shape);
absl::StatusOr<Schedule> Make1F1B(const PipelineShape& shape);
absl::StatusOr<Schedule> MakeInterleaved(const PipelineShape& shape);
// ZB-H1 (Qi et al. 2023, arXiv 2401.10241): 1F1B with the weight gradients put off into the drain.
absl::StatusOr<Schedule> MakeZbH1(const PipelineShape& shape);
// DualPipe (DeepSeek-V3 report, section 3.2.1; deepseek-ai/DualPipe): two replicas of the stages
// that run against each other, the first half of the microbatches through the first. num_ranks and
// num_microbatches even, num_microbatches >= 2 num_ranks.
absl::StatusOr<Schedule> MakeDualPipe(const PipelineShape& shape);
// DualPipeV (same source): one replica of 2 P stages, rank r holds stages r and 2 P - 1 - r. chunks
// = 2, num_microbatches >= 2 num_ranks.
absl::StatusOr<Schedule> MakeDualPipeV(const PipelineShape& shape);

// By name, case-insensitive, with communication inserted and validated; INVALID_ARGUMENT lists the
// known names.
absl::StatusOr<Schedule> MakeSchedule(absl::string_view name, const PipelineShape& shape);
// A number of microbatches that the schedule of this name takes on so many ranks, and of which it
// takes every multiple.
int MicrobatchUnit(absl::string_view name, int num_ranks);
// Stages a rank holds unless told otherwise: 2 for interleaved and dualpipe_v, else 1.
int DefaultChunks(absl::string_view name);

// Adds sends and receives between stages on different ranks: a send right after its product, a
// receive right before its use, or earlier where its sender sends it before something that is used
// earlier. INVALID_ARGUMENT for an action that names an unknown stage or
// microbatch, and for one that is a send or receive already.
absl::StatusOr<Schedule> InsertCommunication(Schedule schedule);

// OK if: each (stage, microbatch) has exactly one F and exactly one B or one I and one W, on its
// own rank; each input is produced before it is used; sends match receives in order on every pair
// of ranks; W (and B) of a stage ascend in microbatch; nothing deadlocks. Otherwise
// INVALID_ARGUMENT with the grid and the place marked.
absl::Status Validate(const Schedule& schedule);

// "F0.0 F0.1 B0.0 ..." one line a rank, and back.
std::string ToText(const Schedule& schedule);
std::string ToText(const Action& action);
absl::StatusOr<std::vector<std::vector<Action>>> ParseActions(absl::string_view text);
// The schedule drawn over unit time (F = I = W = 1, messages take none and are not shown), one line
// a rank; `mark_rank`/`mark_step` point at a fault (-1: none; a step past the last is the end).
// Where a rank cannot go on, the line says at what it is stuck.
std::string DrawGrid(const Schedule& schedule, int mark_rank = -1, int mark_step = -1);

}  // namespace sluice::parallel
