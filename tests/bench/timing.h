// Timing of things that are compared: in turns, in the same seconds, so that what else the machine
// does hits all alike.
#pragma once

#include <functional>
#include <vector>

namespace sluice::bench {

struct TimingOptions {
  int rounds = 9;
  double max_seconds = 3;             // no new round after this, once there were three
  double seconds_per_sample = 0.004;  // a sample repeats its work until about this long
  int threads = 1;  // that each run keeps busy; more than 1: a pause between runs,
                    // so that spinning threads of one library do not slow the next
};

// Seconds per call of each run: the lower quartile of its samples. With one thread, its processor
// time, which other programs do not lengthen; with more, time on the wall, without the samples
// during which this thread lost its core while enough others remain.
std::vector<double> TimeInTurns(const std::vector<std::function<void()>>& runs,
                                const TimingOptions& options);

// Machine, compiler, load, SIMD target; warns if the build is not optimised.
void PrintEnvironment();

double GeometricMean(const std::vector<double>& values);

}  // namespace sluice::bench
