// Where a run starts: at the beginning, at a checkpoint of its own, or from another run's weights.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "trainer/loop/run_state.h"

namespace sluice::trainer {

// INVALID_ARGUMENT naming the first field that may not change between a checkpoint and the run that
// resumes it: model, how data is read, seed, batch, sequence length. What may change and did
// (steps, cadence, mesh, learning rate, ...) is returned as text, one line each.
absl::StatusOr<std::string> CompareForResume(const RunConfig& stored, const RunConfig& now);

// Loads the newest good checkpoint of run.dir, or run.init_from's weights, or initial weights.
// `beginning`: the state of a new run. INVALID_ARGUMENT, before anything is loaded, when
// CompareForResume refuses, or when the checkpoint was trained with another tokenizer_hash
// (data.tokenizer) or data_identity (data.train). Collective.
absl::StatusOr<RunState> StartState(RankModel& model, const RankContext& rank,
                                    const RunState& beginning, checkpoints::FileSystem& files);

// The folder of a checkpoint: `path` itself if it is a generation, else the newest good one of a
// run folder. Collective.
absl::StatusOr<std::string> FindCheckpoint(const std::string& path, const RankContext& rank,
                                           checkpoints::FileSystem& files);

std::string CheckpointDir(const RunConfig& config);  // <run.dir>/checkpoints

}  // namespace sluice::trainer
