// The state of a run as checkpoints hold it: what is saved, and how any mesh reads it back.
//
// Tensors: master/<name>, adam_m/<name>, adam_v/<name> for every named parameter tensor that is
// trained (FP32 masters; the BF16 values are their rounding and are not stored), ema/<name> beside
// them with train.ema_decay, weight/<name> for every frozen one (its values, in the compute dtype),
// gate/<prefix>e_score_correction_bias and gate/<prefix>load (tokens routed in the last step).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoints/file_system.h"
#include "checkpoints/manifest.pb.h"
#include "checkpoints/reader.h"
#include "trainer/loop/rank_model.h"

namespace sluice::trainer {

// Counters that belong to the state besides tensors.
struct RunState {
  int64_t step = 0;     // finished steps
  int64_t updates = 0;  // of them applied
  int64_t num_skipped() const { return step - updates; }
  int64_t next_sample = 0;  // data position: index of the first sequence not yet read
  int64_t skipped_in_a_row = 0;
  std::vector<int64_t> load;                  // [gates * experts] of the last step
  std::vector<std::string> fp8_demoted;       // layers that went from FP8 to BF16
  std::string tokenizer_hash, data_identity;  // of the training data, as data::DataSetInfo
};

struct SaveOptions {
  std::string dir;  // of all checkpoints of the run
  int keep = 3;
  checkpoints::LogFunction log;  // rank 0
};

// Collective. Returns the generation's folder. On any rank's error every rank gets it and nothing
// is published.
absl::StatusOr<std::string> SaveState(RankModel& model, const RunState& state,
                                      const SaveOptions& options, checkpoints::FileSystem& files);

struct LoadOptions {
  bool weights_only = false;  // masters and gate bias: for a new run, evaluation, generation
  // With weights_only: a model without adapters (LoRA) gets those of the checkpoint added to its
  // weights; one with adapters gets new ones where the checkpoint has none.
  bool merge_adapters = false;
  checkpoints::WeightSet weights = checkpoints::WeightSet::kMasters;
};
// Collective only in PublishWeights. Reads this rank's part of `generation_dir` whatever mesh wrote
// it.
absl::StatusOr<RunState> LoadState(RankModel& model, const std::string& generation_dir,
                                   const LoadOptions& options, checkpoints::FileSystem& files);

// BatchSource's identity of the data that the run of a checkpoint was trained on.
std::string DataIdentityOf(const checkpoints::RunMetadata& metadata);

// Every rank learns whether all succeeded: OK, or the first failing rank's status, with its number
// unless every rank failed with the same message.
// Collective.
absl::Status AgreeOnStatus(parallel::Communicator& world, const absl::Status& mine);

// What a checkpoint of this run takes on disk, all ranks together. Collective.
absl::StatusOr<int64_t> StateBytes(RankModel& model);

}  // namespace sluice::trainer
