// Will the run's ranks fit into the memory of their hosts? Asked before anything is allocated,
// since the kernel ends a process that takes too much without a word.
#pragma once

#include "absl/status/status.h"
#include "trainer/loop/trainer.h"

namespace sluice::trainer {

// Rehearses every rank (rehearsal.h) with each exchange bringing the mean of its rows, for of a
// group's rows one has less where another has more, and adds up the ranks of a host.
// RESOURCE_EXHAUSTED: one sentence for the fullest host, with the field to lower. OK without asking
// where RankContext::free_bytes is unknown, on a GPU, and with run.check_memory false. `config` is
// resolved. Collective.
absl::Status CheckHostMemory(const RunConfig& config, const RankContext& rank);

}  // namespace sluice::trainer
