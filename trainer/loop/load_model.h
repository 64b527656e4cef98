// A model from a checkpoint, for evaluation, scoring and generation.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "checkpoints/reader.h"
#include "data/tokenizer.h"
#include "trainer/loop/rank_model.h"

namespace sluice::trainer {

struct LoadedModel {
  std::string generation;  // the checkpoint's folder
  int64_t step = 0;
  RunConfig config;  // as stored, on the mesh at hand
  std::unique_ptr<RankModel> model;
};

// What a loaded model is for: weights alone, or gradients and optimizer state as well.
enum class LoadFor { kForward, kGradients };

// `checkpoint` is a generation or a run folder. The model is laid out over all ranks of rank.world
// as data replicas that share experts where their number allows; microbatch and global batch are
// set to one sequence a rank. Whatever the run trained, adapters are merged. Collective.
absl::StatusOr<LoadedModel> LoadModel(
    const std::string& checkpoint, const RankContext& rank, LoadFor use = LoadFor::kForward,
    checkpoints::WeightSet weights = checkpoints::WeightSet::kMasters);

// The configuration to read other data with a loaded model: without the run's training data, which
// need not be there any more, and with the vocabulary that the run keeps beside its checkpoints.
RunConfig ConfigToRead(const LoadedModel& loaded);

// The tokenizer that belongs to a checkpoint: `path` if not empty, else tokenizer.json in the run's
// folder. FAILED_PRECONDITION when its hash is not the one that the checkpoint was trained with.
absl::StatusOr<std::unique_ptr<data::Tokenizer>> LoadTokenizerOf(const std::string& generation,
                                                                 const std::string& path);

}  // namespace sluice::trainer
