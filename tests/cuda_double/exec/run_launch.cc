#include "tests/cuda_double/exec/run_launch.h"

namespace sluice::cuda_double {
namespace {

std::string CheckShape(const Launch& launch) {
  const Kernel& kernel = *launch.kernel;
  const unsigned threads = launch.block.x * launch.block.y * launch.block.z;
  if (threads == 0 || threads > kMostThreads) {
    return kernel.title + ": a block of " + std::to_string(threads) + " threads";
  }
  if (kernel.max_threads != 0 && threads > kernel.max_threads) {
    return kernel.title + ": a block of " + std::to_string(threads) +
           " threads, more than its launch bound of " + std::to_string(kernel.max_threads);
  }
  const size_t shared = kernel.shared_bytes + launch.dynamic_shared_bytes;
  if (shared > kMostSharedBytes) {
    return kernel.title + ": " + std::to_string(shared) + " bytes of shared memory";
  }
  return "";
}

}  // namespace

std::string RunLaunch(const Launch& launch) {
  const std::string why = CheckShape(launch);
  if (!why.empty()) return why;
  uint32_t number = 0;
  for (unsigned z = 0; z < launch.grid.z; ++z) {
    for (unsigned y = 0; y < launch.grid.y; ++y) {
      for (unsigned x = 0; x < launch.grid.x; ++x) {
        std::string error = Block(launch, {x, y, z}, number++).Run();
        if (!error.empty()) return error;
      }
    }
  }
  return "";
}

}  // namespace sluice::cuda_double
