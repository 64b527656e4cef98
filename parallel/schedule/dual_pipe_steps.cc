#include "parallel/schedule/dual_pipe_steps.h"

#include <deque>

#include "kernels/core/check.h"
#include "parallel/schedule/new_schedule.h"

namespace sluice::parallel::internal {
namespace {

class Writer {
 public:
  explicit Writer(const DualPipeRank& rank) : rank_(rank) {}

  void Forward(int direction) { Add(ActionKind::kForward, direction, forwards_[direction]++); }

  void Backward(int direction, bool puts_off_weights) {
    const int k = backwards_[direction]++;
    if (!puts_off_weights) return Add(ActionKind::kBackward, direction, k);
    Add(ActionKind::kBackwardInput, direction, k);
    Action weight = actions_.back();
    weight.kind = ActionKind::kBackwardWeight;
    put_off_.push_back(weight);
  }

  void Overlap(int forward, int backward) {
    Add(ActionKind::kBackward, backward, backwards_[backward]++);
    const Action back = actions_.back();
    actions_.pop_back();
    Add(ActionKind::kOverlap, forward, forwards_[forward]++);
    actions_.back().backward_stage = back.stage;
    actions_.back().backward_microbatch = back.microbatch;
  }

  void OldestWeight() {
    CHECK(!put_off_.empty());
    actions_.push_back(put_off_.front());
    put_off_.pop_front();
  }

  std::vector<Action> Finish() {
    CHECK(put_off_.empty());
    for (int d = 0; d < 2; ++d) {
      CHECK_EQ(forwards_[d], rank_.num_microbatches);
      CHECK_EQ(backwards_[d], rank_.num_microbatches);
    }
    return std::move(actions_);
  }

 private:
  void Add(ActionKind kind, int direction, int k) {
    const Direction& place = rank_.directions[direction];
    actions_.push_back(MakeAction(kind, place.stage, place.first_microbatch + k));
  }

  const DualPipeRank& rank_;
  std::array<int, 2> forwards_ = {}, backwards_ = {};  // begun so far
  std::deque<Action> put_off_;
  std::vector<Action> actions_;
};

}  // namespace

std::array<int, 8> DualPipeSteps(const DualPipeRank& rank) {
  const int near = rank.distance + 1, far = rank.depth - near;
  const int pairs = rank.num_microbatches - 2 * rank.depth + near;
  return {2 * far, near, far, pairs, far, near, far, near};
}

std::vector<Action> DualPipeActions(const DualPipeRank& rank) {
  const std::array<int, 8> steps = DualPipeSteps(rank);
  Writer writer(rank);
  for (int i = 0; i < steps[0]; ++i) writer.Forward(0);
  for (int i = 0; i < steps[1]; ++i) {
    writer.Forward(0);
    writer.Forward(1);
  }
  for (int i = 0; i < steps[2]; ++i) {
    writer.Backward(1, true);
    writer.OldestWeight();
    writer.Forward(1);
  }
  const bool directions_meet = rank.distance + 1 == rank.depth;
  for (int i = 0; i < steps[3]; ++i) {
    if (i == 0 && directions_meet) {
      writer.Forward(0);
      writer.Backward(1, false);
    } else {
      writer.Overlap(0, 1);
    }
    writer.Overlap(1, 0);
  }
  for (int i = 0; i < steps[4]; ++i) {
    writer.Backward(1, false);
    writer.Overlap(1, 0);
  }
  for (int i = 0; i < 2 * steps[5]; ++i) writer.Backward(i % 2 == 0 ? 1 : 0, i >= steps[5]);
  for (int i = 0; i < steps[6]; ++i) {
    writer.OldestWeight();
    writer.Backward(0, true);
  }
  for (int i = 0; i < steps[7]; ++i) writer.OldestWeight();
  return writer.Finish();
}

}  // namespace sluice::parallel::internal
