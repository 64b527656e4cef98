#include "parallel/pipeline/overlap_order.h"

namespace sluice::parallel {
namespace {

using kernels::StreamRole;

class Writer {
 public:
  Writer(std::span<const StreamRole> front, std::span<const StreamRole> back)
      : front_(front), back_(back), backward_(static_cast<int>(back.size()) - 1) {}

  std::vector<PhaseStep> Run() {
    steps_.reserve(front_.size() + 2 * back_.size());
    while (has_forward() && has_backward()) {
      const bool forward_computes = front_[forward_] == StreamRole::kCompute,
                 backward_computes = back_[backward_] == StreamRole::kCompute;
      if (forward_computes != backward_computes) {
        if (forward_computes) Backward();
        Forward();
        if (!forward_computes) Backward();
      } else if (forward_ <= static_cast<int>(back_.size()) - 1 - backward_) {
        Forward();
      } else {
        Backward();
      }
    }
    while (has_forward()) Forward();
    while (has_backward()) Backward();
    WeightsDownTo(0);
    return std::move(steps_);
  }

 private:
  bool has_forward() const { return forward_ < static_cast<int>(front_.size()); }
  bool has_backward() const { return backward_ >= 0; }
  void Forward() { steps_.push_back({PhaseKind::kForward, forward_++}); }

  void Backward() {
    const int phase = backward_--;
    steps_.push_back({PhaseKind::kBackwardInput, phase});
    if (back_[phase] == StreamRole::kCompute) {
      computed_ = phase;
    } else {
      WeightsDownTo(computed_);
    }
  }

  void WeightsDownTo(int last) {
    for (; weights_ >= last; --weights_) steps_.push_back({PhaseKind::kBackwardWeight, weights_});
  }

  const std::span<const StreamRole> front_, back_;
  int forward_ = 0, backward_;                        // the next of each
  int weights_ = static_cast<int>(back_.size()) - 1;  // the next weight gradient
  int computed_ = static_cast<int>(back_.size());     // the last input gradient that computed
  std::vector<PhaseStep> steps_;
};

}  // namespace

std::vector<PhaseStep> OverlapOrder(std::span<const StreamRole> front,
                                    std::span<const StreamRole> back) {
  return Writer(front, back).Run();
}

}  // namespace sluice::parallel
