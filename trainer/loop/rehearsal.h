// What a run's rank will hold on the CPU: its own modules, tapes, pool, exchange and optimizer take
// and give back what they do in a step, on streams that compute nothing and among ranks that are
// not there. Pages are never touched, so this costs address space, not memory, and milliseconds.
// What kernels take for themselves on the CPU (kernels/cpu/scratch.h), some MiB a thread, is not
// known here.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/core/memory_table.h"
#include "parallel/plan/plan.h"
#include "trainer/loop/run_config.pb.h"

namespace sluice::trainer {

struct Rehearsal {
  int pipe_rank = 0, data_rank = 0;
  int threads = 1;        // of the rank
  int64_t sequences = 0;  // of a global batch
  // Rows that each exchange of the rank brings to its experts, in the order of the steps; the last
  // goes on for ever. Empty: the mean of the rank's group times row_factor.
  std::vector<int64_t> received;
  double row_factor = 1;
  int steps = 0;  // 0: until a step allocates nothing new, at most eight
};

// Bytes of each kind, as the allocation table of the rank has them after those steps. `run` is
// resolved. RESOURCE_EXHAUSTED: not even the address space is there.
absl::StatusOr<parallel::MemoryUse> Rehearse(const RunConfig& run, const Rehearsal& rehearsal);

parallel::MemoryUse HeldBy(const kernels::MemoryTable& table);

}  // namespace sluice::trainer
