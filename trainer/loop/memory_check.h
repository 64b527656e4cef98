// Will the run's ranks fit into the memory of their hosts or GPUs? Asked before anything is
// allocated: the kernel ends a process that takes too much without a word, and a GPU that is full
// only after the first forward pass tells so minutes into the run.
#pragma once

#include "absl/status/status.h"
#include "trainer/loop/trainer.h"

namespace sluice::trainer {

// Rehearses every rank (rehearsal.h) with each exchange bringing the mean of its rows, for of a
// group's rows one has less where another has more, and adds up the ranks that share a memory.
// RESOURCE_EXHAUSTED: one sentence for the fullest memory, with the field to lower. OK without
// asking where RankContext::free_bytes is unknown, and with run.check_memory false. What a GPU's
// kernels and libraries take for themselves is not counted. `config` is resolved. Collective.
absl::Status CheckMemory(const RunConfig& config, const RankContext& rank);

}  // namespace sluice::trainer
