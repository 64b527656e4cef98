// One expert group's pipeline, action by action.   P pipeline ranks
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "parallel/schedule/schedule.h"
#include "parallel/sim/lanes.h"
#include "parallel/sim/simulate.h"

namespace sluice::parallel {

// Knows which actions of the schedule are done, what they made, and how long the next ones take;
// who plays decides when each starts and ends.
class GroupPlayer {
 public:
  // `request` outlives it.
  GroupPlayer(const SimulationRequest& request, int group);

  int group() const { return group_; }
  int num_ranks() const { return pipe_; }
  bool IsDone(int rank) const;
  // When the inputs of `rank`'s next action are there; kNever: not known yet. Not when IsDone.
  static constexpr double kNever = -1;
  double NextReady(int rank);
  // Of that action, alone on the machine.
  LaneTimes NextTimes(int rank);
  // Of `times`, the share in which a member with the mean of the rows is busy: it waits for the
  // fullest.
  double BusyShare(int rank, const LaneTimes& times) const;
  // That action ran from `start` to `finish`; its sums go to `timeline`.
  void Complete(int rank, double start, double finish, const LaneTimes& times, Timeline& timeline);
  // Each rank on cores of its own: every action starts when it can. INVALID_ARGUMENT: a deadlock.
  absl::Status Run(Timeline& timeline);
  absl::Status CheckDone() const;

 private:
  struct Cell {  // of one stage and microbatch: when each product is there
    double forward = kNever, input_gradient = kNever, activation = kNever, gradient = kNever;
  };
  // The place of an action among its rank's: only in the steady state is there a neighbour to hide
  // behind.
  struct SteadyRange {
    int begin = 0, end = 0;
  };

  static SteadyRange SteadyOf(const std::vector<Action>& actions);
  void SkipMessages(int rank);
  Cell& At(int stage, int microbatch);
  double RowsOf(int stage, int microbatch) const;  // of the fullest member over the mean
  double Input(int stage, int microbatch);
  double OutputGradient(int stage, int microbatch);
  void Finish(int rank, const Action& action, double time);
  double Arrival(int from, int stage, int microbatch, double sent);
  enum class Rows : uint8_t { kFullest, kMean };
  LaneTimes TimesOf(int rank, int step, const Action& action, Rows which) const;
  LaneTimes PairTimes(ChunkPair pair) const;  // a forward and a backward that overlap
  LaneTimes Shrink(int rank, int step, const LaneTimes& alone, const ChunkCost& chunk,
                   double rows) const;

  const SimulationRequest& request_;
  const Schedule& schedule_;
  const StepCosts& costs_;
  const int group_, pipe_;
  std::vector<Cell> cells_;  // [S, n]
  std::vector<double> slow_;
  std::vector<double> link_free_;  // [from, to]
  std::vector<SteadyRange> steady_;
  std::vector<std::vector<LaneTimes>> known_;  // [rank][kind of chunk]
  std::vector<size_t> done_;                   // [rank] actions
};

}  // namespace sluice::parallel
