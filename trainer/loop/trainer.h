// What launch/ calls: training, evaluation, scoring and generation on a mesh of ranks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "parallel/comm/communicator.h"
#include "trainer/loop/run_config.pb.h"

namespace sluice::trainer {

// What a rank stands on; made in main(), outlives everything else.
struct RankContext {
  parallel::Communicator* world = nullptr;
  kernels::DeviceContext* device = nullptr;
  int ranks_on_host = 1;
  // What `device` allocates from, "host node7" or a GPU of it: ranks of one name share it.
  std::string memory_name;
  int64_t free_bytes = 0;  // of that memory, for all of them; 0: unknown
  double peak_flops =
      0;  // of all ranks together in the precision at hand, measured at start; 0: unknown
  std::function<void(const std::string&)>
      print;                             // lines for people, already only on rank 0; may be null
  std::function<bool()> stop_requested;  // a signal asked this rank to save and end; may be null
};

// Fills every unset field with its default, which may depend on other fields and on the number of
// ranks, and checks the whole. INVALID_ARGUMENT: one sentence with field, found, wanted.
absl::StatusOr<RunConfig> Resolve(const RunConfig& config, int world_size);

// Trains until config.train.steps or a stop request; resumes what run.dir holds. `config` is
// resolved. Collective.
absl::Status Train(const RunConfig& config, const RankContext& rank);

// Parameters, memory table and mesh of a run, without running it. Any shape, any world size; needs
// no memory to speak of.
absl::StatusOr<std::string> DryRun(const RunConfig& config, int world_size);

}  // namespace sluice::trainer
