#include "trainer/loop/memory_check.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "trainer/loop/rehearsal.h"

namespace sluice::trainer {
namespace {

// Of a host or of a GPU.
struct Memory {
  int ranks = 0;
  double free = 0;         // bytes
  double state = 0;        // of all ranks: parameters, gradients, optimizer
  double activations = 0;  // and what else a step takes
  double wanted() const { return state + activations; }
};

std::string WhatToLower(const RunConfig& config, const Memory& memory) {
  const TrainConfig& train = config.train();
  if (memory.state > memory.activations) {
    return absl::StrCat(
        "take more ", config.compute().device() == "cuda" ? "GPUs" : "hosts",
        " or a smaller model (model.num_hidden_layers is ", config.model().num_hidden_layers(), ")",
        train.moment_dtype() == "BF16" ? "" : ", set train.moment_dtype=BF16 for a smaller state");
  }
  // Of gpipe every microbatch is there at once, whatever its size.
  if (config.schedule() == "gpipe" && train.global_batch() > config.mesh().data())
    return absl::StrCat("lower train.global_batch (", train.global_batch(), ")");
  if (train.microbatch() > 1)
    return absl::StrCat("lower train.microbatch (", train.microbatch(), ")");
  return absl::StrCat(
      "lower train.sequence_length (", train.sequence_length(), ")",
      config.compute().recompute() == "none" ? " or set compute.recompute=norm,mla_up,swiglu" : "");
}

absl::Status Judge(const RunConfig& config, const std::string& name, const Memory& memory) {
  if (memory.wanted() <= memory.free) return absl::OkStatus();
  const double gib = int64_t{1} << 30;
  return absl::ResourceExhaustedError(absl::StrFormat(
      "memory: found %.2f GiB free on %s, wanted %.2f GiB for its %d rank%s (parameters, "
      "gradients and optimizer %.2f, activations %.2f): %s, or set run.check_memory=false to try "
      "all the same",
      memory.free / gib, name, memory.wanted() / gib, memory.ranks, memory.ranks == 1 ? "" : "s",
      memory.state / gib, memory.activations / gib, WhatToLower(config, memory)));
}

// One line of each rank: free bytes, state, activations, and the memory's name.
absl::Status JudgeAll(const RunConfig& config, const std::vector<std::string>& lines) {
  std::map<std::string, Memory> memories;
  for (const std::string& line : lines) {
    const std::vector<std::string> words = absl::StrSplit(line, absl::MaxSplits(' ', 3));
    double free = 0, state = 0, activations = 0;
    CHECK(words.size() == 4 && absl::SimpleAtod(words[0], &free) &&
          absl::SimpleAtod(words[1], &state) && absl::SimpleAtod(words[2], &activations))
        << line;
    Memory& memory = memories[words[3]];
    ++memory.ranks;
    memory.free = std::max(memory.free, free);
    memory.state += state;
    memory.activations += activations;
  }
  const auto fullest =
      std::max_element(memories.begin(), memories.end(), [](const auto& a, const auto& b) {
        return a.second.wanted() - a.second.free < b.second.wanted() - b.second.free;
      });
  return Judge(config, fullest->first, fullest->second);
}

}  // namespace

absl::Status CheckMemory(const RunConfig& config, const RankContext& rank) {
  if (!config.run().check_memory() || rank.free_bytes <= 0) return absl::OkStatus();
  const int me = rank.world->rank(), data = config.mesh().data();
  // (Where not even this works, the run itself will say why.)
  parallel::MemoryUse use;
  if (const auto found = Rehearse(config, {.pipe_rank = me / data,
                                           .data_rank = me % data,
                                           .threads = rank.device->num_threads(),
                                           .sequences = config.train().global_batch()});
      found.ok()) {
    use = *found;
  }
  const double state = use.parameters + use.gradients + use.optimizer;
  ASSIGN_OR_RETURN(
      const std::vector<std::string> lines,
      rank.world->GatherBytes(absl::StrFormat("%d %.0f %.0f %s", rank.free_bytes, state,
                                              use.total() - state, rank.memory_name)));
  // Every rank judges, so that it is no rank's own error.
  ASSIGN_OR_RETURN(const std::string all,
                   rank.world->BroadcastBytes(absl::StrJoin(lines, "\n"), 0));
  return JudgeAll(config, absl::StrSplit(all, '\n'));
}

}  // namespace sluice::trainer
