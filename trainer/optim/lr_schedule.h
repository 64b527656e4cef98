// Learning rate, batch size and other values that are pure functions of the step.
#pragma once

#include <cstdint>

namespace sluice::trainer {

enum class LrShape : uint8_t {
  kConstant,
  kCosine,  // to final_ratio over all steps after warm-up
  kWsd,     // warm-up, stable, linear decay over the last decay_steps (Hu et al., arXiv 2404.06395)
  kDeepSeekV3,  // warm-up, constant_steps at the peak, cosine over decay_steps, then final_ratio,
                // then tail_ratio (report 4.2)
};

struct LrSchedule {
  LrShape shape = LrShape::kCosine;
  double peak = 0;
  int64_t steps = 0, warmup_steps = 0;
  double final_ratio = 0.1;
  int64_t decay_steps = 0, constant_steps = 0, tail_steps = 0;
  double tail_ratio = 0.1;
};

// The rate of step `step`, counted from 1. Warm-up is linear from 0: step s of w has peak * s / w.
// The last step of a cosine or WSD run has exactly peak * final_ratio.
double LearningRate(const LrSchedule& schedule, int64_t step);

// Sequences in the batch of step `step` (from 1): linear from `start` at step 1 to `full` after
// ramp_steps, in multiples of `multiple`, at least one and at most `full`. start = 0 or ramp_steps
// = 0: always `full`.
struct BatchRamp {
  int64_t start = 0, full = 1, ramp_steps = 0, multiple = 1;
};
int64_t BatchSize(const BatchRamp& ramp, int64_t step);
// Sequences read by all steps before `step`: where it starts in the data.
int64_t FirstSample(const BatchRamp& ramp, int64_t step);

}  // namespace sluice::trainer
