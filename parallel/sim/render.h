// A simulated step for eyes and for other programs.
#pragma once

#include <string>

#include "parallel/sim/simulate.h"

namespace sluice::parallel {

// One line a pipeline rank of the group that ends last (named where there are several), `width`
// columns from 0 to the end of the step; a column shows what filled most of it. Below it what the
// letters mean: F forward, B backward, I and W its halves, X an overlapped pair, r o g the tail.
std::string DrawGantt(const Timeline& timeline, int width);

// The trace event format that chrome://tracing and Perfetto open: a process a group, a thread a
// pipeline rank, complete events in microseconds, tails among them.
std::string ToChromeTrace(const Timeline& timeline);

// A drawing of the group that ends last, with a legend, self-contained.
std::string ToSvg(const Timeline& timeline);

}  // namespace sluice::parallel
