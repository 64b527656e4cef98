// A simulated step for eyes and for other programs.
#pragma once

#include <string>

#include "parallel/sim/simulate.h"

namespace sluice::parallel {

// One line a pipeline rank of the first group, `width` columns of time: F forward, B backward, I
// and W its halves, X an overlapped pair, . idle; a column shows what filled most of it.
std::string DrawGantt(const Timeline& timeline, int width);

// The trace event format that chrome://tracing and Perfetto open: a process a group, a thread a
// pipeline rank, complete events in microseconds.
std::string ToChromeTrace(const Timeline& timeline);

// A drawing of the first group, self-contained.
std::string ToSvg(const Timeline& timeline);

}  // namespace sluice::parallel
