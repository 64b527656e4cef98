// Plays all ranks of a schedule in time, without running anything. Internal to this folder and its
// tests.   P ranks, n microbatches
//
// A rank runs its actions in order, each as soon as what it needs is there. Messages take no time,
// sends never wait, receives wait for their message. A schedule without a single send or receive
// is played as if InsertCommunication had run.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/schedule/schedule.h"

namespace sluice::parallel::internal {

struct Durations {  // of one stage and microbatch; kBackward and kOverlap are sums of these
  int64_t forward = 1, backward_input = 1, backward_weight = 1;
};

struct TimeSpan {
  int64_t start = -1, finish = -1;  // -1: the action never ran
};

struct Playback {
  std::vector<std::vector<TimeSpan>> spans;  // [rank][step]
  std::vector<int> num_done;  // [rank] actions that ran: all, or up to one that is stuck
  int64_t finish = 0;         // of the last action
};

bool IsMessage(ActionKind kind);  // a send or a receive
int64_t DurationOf(ActionKind kind, const Durations& durations);

// An action that names an unknown stage or microbatch, or one of another rank, is never ready.
Playback Play(const Schedule& schedule, const Durations& durations = {});

// True if both numbers are in range and `rank` holds the stage for this microbatch.
bool IsOn(const Schedule& schedule, int rank, int stage, int microbatch);

}  // namespace sluice::parallel::internal
