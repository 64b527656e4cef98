// What the tests of schedules share.   P ranks, n microbatches
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "parallel/schedule/play.h"
#include "parallel/schedule/schedule.h"

namespace sluice::parallel::testing {

struct NamedShape {
  std::string name;
  PipelineShape shape;
};

inline std::string Describe(const NamedShape& made) {
  return made.name + "_p" + std::to_string(made.shape.num_ranks) + "_n" +
         std::to_string(made.shape.num_microbatches) +
         (made.shape.chunks > 1 ? "_v" + std::to_string(made.shape.chunks) : "");
}

// Every schedule that exists for P in {1, 2, 3, 4, 8}, small n and up to 3 chunks.
inline std::vector<NamedShape> AllSmallShapes() {
  std::vector<NamedShape> all;
  for (const int ranks : {1, 2, 3, 4, 8}) {
    for (int n = 1; n <= 17; ++n) {
      for (const char* name : {"gpipe", "1f1b", "zb_h1"}) all.push_back({name, {ranks, n, 1}});
      for (int chunks = 2; chunks <= 3 && n % ranks == 0; ++chunks) {
        all.push_back({"interleaved", {ranks, n, chunks}});
      }
      if (n >= 2 * ranks && n % 2 == 0 && ranks % 2 == 0)
        all.push_back({"dualpipe", {ranks, n, 1}});
      if (n >= 2 * ranks) all.push_back({"dualpipe_v", {ranks, n, 2}});
    }
  }
  return all;
}

// The fewest that a schedule can have.
inline int ChunksOf(const std::string& name) {
  return name == "interleaved" || name == "dualpipe_v" ? 2 : 1;
}

struct RankTiming {
  int64_t idle = 0;   // of the whole schedule's time, not spent in an action
  int peak_live = 0;  // most (stage, microbatch) whose forward began and whose weight gradient
                      // has not ended
};

inline std::vector<RankTiming> TimeOf(const Schedule& schedule,
                                      const internal::Durations& durations = {}) {
  const internal::Playback playback = internal::Play(schedule, durations);
  std::vector<RankTiming> timings;
  for (int rank = 0; rank < schedule.num_ranks(); ++rank) {
    RankTiming timing{.idle = playback.finish};
    int live = 0;
    for (const Action& action : schedule.actions[rank]) {
      timing.idle -= internal::DurationOf(action.kind, durations);
      const bool overlap = action.kind == ActionKind::kOverlap;
      live += action.kind == ActionKind::kForward || overlap;
      timing.peak_live = std::max(timing.peak_live, live);
      live -= action.kind == ActionKind::kBackward || action.kind == ActionKind::kBackwardWeight ||
              overlap;
    }
    timings.push_back(timing);
  }
  return timings;
}

// 1F1B with each pair of the steady state overlapped, on all ranks but the last, where the backward
// needs the forward beside it. Without messages.
inline Schedule MakeOverlapped1F1B(int num_ranks, int num_microbatches) {
  Schedule schedule = Make1F1B({num_ranks, num_microbatches, 1}).value();
  schedule.name = "overlapped";
  for (int rank = 0; rank + 1 < num_ranks; ++rank) {
    std::vector<Action> merged;
    for (const Action& action : schedule.actions[rank]) {
      const bool pairs = action.kind == ActionKind::kBackward && !merged.empty() &&
                         merged.back().kind == ActionKind::kForward &&
                         merged.back().microbatch - action.microbatch == num_ranks - 1 - rank;
      if (!pairs) {
        merged.push_back(action);
        continue;
      }
      merged.back().kind = ActionKind::kOverlap;
      merged.back().backward_stage = action.stage;
      merged.back().backward_microbatch = action.microbatch;
    }
    schedule.actions[rank] = merged;
  }
  return schedule;
}

// Two replicas that run against each other, as in DualPipe: stage s of the first lives on rank s,
// of the second on rank P - 1 - s. The first half of the microbatches takes the first. All
// forwards, then all backwards. P and n even. Without messages.
inline Schedule MakeTwoReplicas(int num_ranks, int num_microbatches) {
  Schedule schedule = MakeGPipe({num_ranks, num_microbatches, 1}).value();
  schedule.name = "two_replicas";
  schedule.rank_of_stage.push_back(schedule.rank_of_stage[0]);
  std::reverse(schedule.rank_of_stage[1].begin(), schedule.rank_of_stage[1].end());
  for (int m = num_microbatches / 2; m < num_microbatches; ++m) {
    schedule.replica_of_microbatch[m] = 1;
  }
  for (std::vector<Action>& actions : schedule.actions) {
    for (Action& action : actions) {
      if (schedule.replica_of_microbatch[action.microbatch] == 1) {
        action.stage = static_cast<int16_t>(num_ranks - 1 - action.stage);
      }
    }
  }
  return schedule;
}

}  // namespace sluice::parallel::testing
