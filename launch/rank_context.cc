#include "launch/rank_context.h"

#include <cstdio>
#include <string>

#include "launch/machine.h"
#include "launch/stop_signal.h"

namespace sluice::launch {

absl::StatusOr<std::unique_ptr<kernels::DeviceContext>> CreateDevice(
    const trainer::ComputeConfig& compute, const CommandContext& context) {
  return kernels::DeviceContext::Create(
      {.type = compute.device() == "cuda" ? kernels::DeviceType::kCuda : kernels::DeviceType::kCpu,
       .num_threads =
           compute.threads() > 0 ? compute.threads() : ThreadsPerRank(context.ranks_on_host),
       .stream_mode = compute.threaded_streams() ? kernels::CpuStreamMode::kThreaded
                                                 : kernels::CpuStreamMode::kInline,
       .rank_on_host = context.rank_on_host,
       .ranks_on_host = context.ranks_on_host,
       .only_mma_sync = compute.matmul_kernels() == "mma_sync"});
}

trainer::RankContext MakeRankContext(const CommandContext& context, kernels::DeviceContext& device,
                                     std::FILE* lines) {
  trainer::RankContext rank = {.world = context.world,
                               .device = &device,
                               .ranks_on_host = context.ranks_on_host,
                               .host = HostName(),
                               .free_bytes = ReadMemorySize().available_bytes,
                               .stop_requested = StopRequested};
  if (context.is_first_rank()) {
    rank.print = [lines](const std::string& line) {
      std::fprintf(lines, "%s\n", line.c_str());
      std::fflush(lines);  // under mpirun stdout is a pipe
    };
  }
  return rank;
}

}  // namespace sluice::launch
