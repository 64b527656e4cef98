// The order that DualPipe and DualPipeV share: what one rank does with its two directions. Internal
// to this folder.
#pragma once

#include <array>
#include <vector>

#include "parallel/schedule/schedule.h"

namespace sluice::parallel::internal {

// A direction: one of the rank's two stages with the microbatches that pass through it, in order.
struct Direction {
  int stage = 0;
  int first_microbatch = 0;
};

struct DualPipeRank {
  // [0] is the direction that starts nearer to this rank.
  std::array<Direction, 2> directions;
  int depth = 1;  // ranks that a microbatch of one direction passes before it turns or ends: P / 2
                  // of DualPipe, P of DualPipeV
  int distance = 0;          // of this rank from the end at which direction 0 starts: [0, depth)
  int num_microbatches = 0;  // of one direction, at least 2 depth - distance - 1
};

// The repeats of the eight steps (deepseek-ai/DualPipe, dualpipe.py and dualpipev.py; DeepSeek-V3
// report, section 3.2.1 and figure 5):
//   1 F0 | 2 F0 F1 | 3 I1 W1 F1 | 4 (F0|B1) (F1|B0) | 5 B1 (F1|B0) | 6 B1 B0 | 7 W I0 | 8 W
// W takes the oldest weight gradient that was put off. In the second half of step 6 backwards put
// it off. The first pair of step 4 is not overlapped where the two directions meet (distance =
// depth - 1), because there the backward waits for nothing and the rank behind waits for it.
std::array<int, 8> DualPipeSteps(const DualPipeRank& rank);
// The actions of these steps, without messages.
std::vector<Action> DualPipeActions(const DualPipeRank& rank);

}  // namespace sluice::parallel::internal
