// What the tests of simulator and planner share.   P ranks, n microbatches
#pragma once

#include <cmath>
#include <vector>

#include "parallel/schedule/schedule.h"
#include "parallel/sim/simulate.h"

namespace sluice::parallel::testing {

// F, I, W seconds on the compute lane in every stage.
inline StepCosts EvenCosts(int stages, double forward, double input, double weight) {
  StepCosts costs;
  ChunkCost chunk;
  chunk.forward = {{PhaseKind::kDense, Lane::kCompute, forward}};
  chunk.backward_input = {{PhaseKind::kDense, Lane::kCompute, input}};
  chunk.backward_weight = {{PhaseKind::kDense, Lane::kCompute, weight}};
  chunk.weight_after = {1};
  costs.stages.assign(stages, chunk);
  return costs;
}

// Two replicas that run against each other as DualPipe's do, in DualPipe's eight steps
// (deepseek-ai/DualPipe, README): the simulator's own stand-in. P and n even, n >= 2 P.
class DualPipeLike {
 public:
  static Schedule Make(int num_ranks, int n) {
    Schedule schedule;
    schedule.name = "dualpipe_like";
    schedule.num_stages = num_ranks;
    schedule.num_microbatches = n;
    schedule.rank_of_stage.assign(2, std::vector<int>(num_ranks));
    for (int s = 0; s < num_ranks; ++s) {
      schedule.rank_of_stage[0][s] = s;
      schedule.rank_of_stage[1][s] = num_ranks - 1 - s;
    }
    for (int m = 0; m < n; ++m) schedule.replica_of_microbatch.push_back(m < n / 2 ? 0 : 1);
    for (int rank = 0; rank < num_ranks; ++rank)
      schedule.actions.push_back(DualPipeLike(rank, num_ranks, n).Actions());
    return schedule;
  }

 private:
  DualPipeLike(int rank, int ranks, int n) : rank_(rank), ranks_(ranks), n_(n) {}

  std::vector<Action> Actions() {
    const int h = ranks_ / 2, m = std::min(rank_, ranks_ - 1 - rank_);
    const bool middle = m == h - 1;
    Repeat(2 * (h - m - 1), [&] { Forward(0); });
    Repeat(m + 1, [&] {
      Forward(0);
      Forward(1);
    });
    Repeat(h - m - 1, [&] {
      Backward(1, true);
      Weight();
      Forward(1);
    });
    for (int i = 0; i < n_ / 2 - ranks_ + m + 1; ++i) {
      if (i == 0 && middle) {
        Forward(0);
        Backward(1, false);
      } else {
        Overlapped(0, 1);
      }
      Overlapped(1, 0);
    }
    Repeat(h - m - 1, [&] {
      Backward(1, false);
      Overlapped(1, 0);
    });
    for (int i = 0; i < m + 1; ++i) {
      const bool first = 2 * i >= m + 1;  // the second half splits
      const bool second = 2 * i + 1 >= m + 1;
      Backward(1, first);
      Backward(0, second);
    }
    Repeat(h - m - 1, [&] {
      Weight();
      Backward(0, true);
    });
    Repeat(m + 1, [&] { Weight(); });
    return actions_;
  }

  template <typename F>
  static void Repeat(int count, const F& f) {
    for (int i = 0; i < count; ++i) f();
  }
  // Phase 0 is the direction whose first stage is nearer to this rank.
  int Replica(int phase) const { return (rank_ < ranks_ / 2 ? 0 : 1) ^ phase; }
  int16_t Stage(int phase) const {
    return static_cast<int16_t>(Replica(phase) == 0 ? rank_ : ranks_ - 1 - rank_);
  }
  int16_t Next(int phase, int (&count)[2]) const {
    return static_cast<int16_t>(count[phase]++ + Replica(phase) * n_ / 2);
  }
  void Forward(int phase) {
    actions_.push_back({ActionKind::kForward, Stage(phase), Next(phase, forwards_)});
  }
  void Backward(int phase, bool split) {
    const Action action{split ? ActionKind::kBackwardInput : ActionKind::kBackward, Stage(phase),
                        Next(phase, backwards_)};
    actions_.push_back(action);
    if (split) weights_.push_back(action);
  }
  void Weight() {
    Action action = weights_[next_weight_++];
    action.kind = ActionKind::kBackwardWeight;
    actions_.push_back(action);
  }
  void Overlapped(int forward, int backward) {
    actions_.push_back({ActionKind::kOverlap, Stage(forward), Next(forward, forwards_),
                        Stage(backward), Next(backward, backwards_)});
  }

  const int rank_, ranks_, n_;
  int forwards_[2] = {0, 0}, backwards_[2] = {0, 0};
  std::vector<Action> weights_, actions_;
  size_t next_weight_ = 0;
};

}  // namespace sluice::parallel::testing
