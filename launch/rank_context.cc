#include "launch/rank_context.h"

#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
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
       .only_mma_sync = compute.matmul_kernels() == "mma_sync",
       .dense_by_cublaslt = compute.matmul_kernels() == "cublaslt",
       .attention_by_cudnn = compute.attention_kernels() == "cudnn"});
}

trainer::RankContext MakeRankContext(const CommandContext& context, kernels::DeviceContext& device,
                                     std::FILE* lines) {
  trainer::RankContext rank = {.world = context.world,
                               .device = &device,
                               .ranks_on_host = context.ranks_on_host,
                               .memory_name = absl::StrCat("host ", HostName()),
                               .free_bytes = ReadMemorySize().available_bytes,
                               .stop_requested = StopRequested};
  if (device.id().type == kernels::DeviceType::kCuda) {
    const kernels::OwnMemory own = device.own_memory();
    rank.memory_name = absl::StrCat(own.name, " of ", rank.memory_name);
    rank.free_bytes = own.free_bytes;
  }
  if (context.is_first_rank()) {
    rank.print = [lines](const std::string& line) {
      std::fprintf(lines, "%s\n", line.c_str());
      std::fflush(lines);  // under mpirun stdout is a pipe
    };
  }
  return rank;
}

}  // namespace sluice::launch
