#include "trainer/optim/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/core/check.h"

namespace sluice::trainer {
namespace {

// Half a cosine from 1 at progress 0 to `final_ratio` at progress 1; constant outside.
double CosineRatio(double progress, double final_ratio) {
  const double p = std::clamp(progress, 0.0, 1.0);
  return final_ratio + (1 - final_ratio) * 0.5 * (1 + std::cos(std::numbers::pi * p));
}

double Fraction(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 1.0;
}

}  // namespace

double LearningRate(const LrSchedule& s, int64_t step) {
  CHECK_GE(step, 1);
  if (step < s.warmup_steps) return s.peak * Fraction(step, s.warmup_steps);
  const int64_t after = step - s.warmup_steps;
  switch (s.shape) {
    case LrShape::kConstant:
      return s.peak;
    case LrShape::kCosine:
      return s.peak * CosineRatio(Fraction(after, s.steps - s.warmup_steps), s.final_ratio);
    case LrShape::kWsd: {
      const int64_t left = std::max<int64_t>(s.steps - step, 0);
      if (left >= s.decay_steps) return s.peak;
      return s.peak * (s.final_ratio + (1 - s.final_ratio) * Fraction(left, s.decay_steps));
    }
    case LrShape::kDeepSeekV3: {
      if (step > s.steps - s.tail_steps) return s.peak * s.tail_ratio;
      if (step <= s.constant_steps) return s.peak;
      return s.peak * CosineRatio(Fraction(step - s.constant_steps, s.decay_steps), s.final_ratio);
    }
  }
  return s.peak;
}

int64_t BatchSize(const BatchRamp& ramp, int64_t step) {
  CHECK_GE(step, 1);
  if (ramp.start <= 0 || step > ramp.ramp_steps) return ramp.full;
  const int64_t grown = ramp.start + (ramp.full - ramp.start) * (step - 1) / ramp.ramp_steps;
  return std::clamp(grown / ramp.multiple * ramp.multiple, ramp.multiple, ramp.full);
}

int64_t FirstSample(const BatchRamp& ramp, int64_t step) {
  if (ramp.start <= 0) return (step - 1) * ramp.full;
  int64_t first = 0;
  const int64_t ramped = std::min(step - 1, ramp.ramp_steps);
  for (int64_t s = 1; s <= ramped; ++s) first += BatchSize(ramp, s);
  return first + (step - 1 - ramped) * ramp.full;
}

}  // namespace sluice::trainer
