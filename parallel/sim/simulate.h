// Plays a schedule on many ranks in time.   P pipeline ranks, G groups, M members, n microbatches
//
// World = P x data ranks, data = G x M as in parallel/mesh: the M members of an expert group take
// part in each other's exchanges and therefore move in lock step; the G groups (expert_data) meet
// only at the end of the step. So P * G pipelines are played, each at the pace of its slowest
// member, and all P * G * M ranks get their own busy times. Where ranks share cores all pipelines
// are played together.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/schedule/schedule.h"
#include "parallel/sim/costs.h"

namespace sluice::parallel {

// How unevenly tokens fall on the members of an expert group: the factor on phases that grow with
// rows, 1 = everybody gets the mean. The slowest member is what the others wait for.
struct RowFactors {
  double constant = 1;  // where `worst` is null; then equal chunks are timed once: much faster
  // (group, stage, microbatch) -> rows of the fullest member over the mean.
  std::function<double(int group, int stage, int microbatch)> worst;
};

struct Straggler {
  int rank = 0;       // in the world
  double factor = 1;  // its compute takes that many times longer
};

struct SimulationRequest {
  const Schedule* schedule = nullptr;  // of one pipeline, with or without messages
  const StepCosts* costs = nullptr;
  int groups = 1, members = 1;
  RowFactors rows;
  std::vector<Straggler> stragglers;
  // Ranks on CPUs: so many cores serve so many ranks, which lie on nodes in order of rank, and an
  // overlapped pair takes the sum of its phases. 0: each rank has a device of its own.
  int cores_per_node = 0, ranks_per_node = 1;
  double waiting_core_share = 0;  // of a core, that a rank which waits takes by asking
  bool keep_spans = true;         // false: no spans, only sums (a search wants only those)
};

struct ActionSpan {
  Action action;
  double start = 0, finish = 0;
  double exposed_comm = 0;  // part of it in which the compute lane waited for the exchange
};

struct RankTimes {
  double compute = 0;       // of the pipeline part, in lock step with the group's slowest
  double exposed_comm = 0;  // of the pipeline part: exchanges, no messages and nothing of the tail
  double idle = 0;          // the bubble: neither
  double finish = 0;        // of its last action
};

struct Timeline {
  int pipe = 0, groups = 1, members = 1;
  std::vector<std::vector<ActionSpan>> spans;  // [G * P], group-major
  std::vector<RankTimes> ranks;                // [G * P]
  double pipeline_seconds = 0;                 // until the last action of the slowest group
  std::vector<TailCost> tails;                 // [P], or empty; where cores are shared, stretched
  TailCost tail;                               // the longest of them
  double step_seconds = 0;                     // with it
  double bubble() const;                       // idle share of the pipeline part, over all ranks
  // Share of the pipeline part spent waiting for exchanges. Reductions and gathers are not in it,
  // they are the tail's.
  double exposed_comm() const;
  int slowest_group() const;  // the one that ends last
  int num_ranks() const { return pipe * groups * members; }
};

// INVALID_ARGUMENT when the schedule deadlocks or costs do not fit it (what, found, wanted).
absl::StatusOr<Timeline> Simulate(const SimulationRequest& request);

}  // namespace sluice::parallel
