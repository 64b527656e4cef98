#include "parallel/sim/lanes.h"

#include <algorithm>
#include <limits>

namespace sluice::parallel {
namespace {

double SecondsOf(const Phase& phase, double rows, double compute_factor) {
  const double grown = phase.seconds * (phase.growth == Growth::kWithRows ? rows : 1.0);
  return phase.lane == Lane::kCompute ? grown * compute_factor : grown;
}

class Player {
 public:
  Player(const ChunkPair& pair, std::vector<PlacedPhase>* placed) : pair_(pair), placed_(placed) {}

  LaneTimes Run() {
    while (Step()) {
    }
    return times_;
  }

 private:
  struct Choice {
    const Phase* phase = nullptr;
    double start = std::numeric_limits<double>::infinity();
    int which = -1;  // 0 backward, 1 forward, 2 weight
  };

  void Offer(const Phase& phase, double ready, int which, Choice& best) const {
    const double start = std::max(ready, lane_free_[static_cast<int>(phase.lane)]);
    if (start < best.start) best = {&phase, start, which};
  }

  bool Step() {
    Choice best;
    if (pair_.backward != nullptr && backward_ < pair_.backward->backward_input.size())
      Offer(pair_.backward->backward_input[backward_], backward_ready_, 0, best);
    if (pair_.forward != nullptr && forward_ < pair_.forward->forward.size())
      Offer(pair_.forward->forward[forward_], forward_ready_, 1, best);
    if (pair_.backward != nullptr && weight_ < pair_.backward->backward_weight.size() &&
        pair_.backward->weight_after[weight_] <= static_cast<int>(backward_)) {
      const int after = pair_.backward->weight_after[weight_];
      Offer(pair_.backward->backward_weight[weight_],
            std::max(weight_ready_, after > 0 ? backward_finish_[after - 1] : 0.0), 2, best);
    }
    if (best.phase == nullptr) return false;
    const double rows = best.which == 1 ? pair_.forward_rows : pair_.backward_rows;
    Place(best, SecondsOf(*best.phase, rows, pair_.compute_factor));
    return true;
  }

  void Place(const Choice& choice, double seconds) {
    const double finish = choice.start + seconds;
    lane_free_[static_cast<int>(choice.phase->lane)] = finish;
    times_.seconds = std::max(times_.seconds, finish);
    (choice.phase->lane == Lane::kCompute ? times_.compute_busy : times_.comm_busy) += seconds;
    if (placed_ != nullptr)
      placed_->push_back({*choice.phase, choice.which != 1, choice.start, finish});
    if (choice.which == 0) {
      backward_ready_ = finish;
      backward_finish_.push_back(finish);
      ++backward_;
    } else if (choice.which == 1) {
      forward_ready_ = finish;
      ++forward_;
    } else {
      ++weight_;
      weight_ready_ = finish;
    }
  }

  const ChunkPair& pair_;
  std::vector<PlacedPhase>* const placed_;
  size_t forward_ = 0, backward_ = 0, weight_ = 0;
  double forward_ready_ = 0, backward_ready_ = 0, weight_ready_ = 0;
  std::vector<double> backward_finish_;
  double lane_free_[2] = {0, 0};
  LaneTimes times_;
};

}  // namespace

absl::string_view NameOf(PhaseKind kind) {
  switch (kind) {
    case PhaseKind::kAttention:
      return "attention";
    case PhaseKind::kDispatch:
      return "dispatch";
    case PhaseKind::kExperts:
      return "experts";
    case PhaseKind::kCombine:
      return "combine";
    case PhaseKind::kDense:
      return "dense";
    case PhaseKind::kHead:
      return "head";
    case PhaseKind::kOther:
      return "other";
  }
  return "other";
}

LaneTimes PlayPair(const ChunkPair& pair, std::vector<PlacedPhase>* placed) {
  return Player(pair, placed).Run();
}

LaneTimes SumOf(const std::vector<Phase>& phases, double rows, double compute_factor) {
  LaneTimes times;
  for (const Phase& phase : phases) {
    const double seconds = SecondsOf(phase, rows, compute_factor);
    times.seconds += seconds;
    (phase.lane == Lane::kCompute ? times.compute_busy : times.comm_busy) += seconds;
  }
  return times;
}

}  // namespace sluice::parallel
