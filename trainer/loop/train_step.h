// One optimizer step.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "trainer/loop/device_batch.h"
#include "trainer/loop/rank_model.h"
#include "trainer/model/fp8_health.h"

namespace sluice::trainer {

struct StepOptions {
  int64_t global_sequences = 0;  // of this step
  double learning_rate = 0;
  int64_t update = 1;               // counts applied updates from 1: AdamW's bias correction
  Fp8Health* fp8_health = nullptr;  // null: nobody looks
};

// Where the seconds of a step went on this rank. Ranks wait for each other at the end of the
// pipeline and at each reduction.
struct StepSeconds {
  double pipeline = 0;  // forward, backward, messages, waiting
  double reduce = 0;    // losses, loads and gradients; their norm
  double update = 0;    // gradients cleared, AdamW, values gathered, weights packed, biases
};

// The same on every rank, but for `seconds`.
struct StepResult {
  double loss = 0;          // main cross-entropy, mean over all target tokens of the global batch
  double mtp_loss = 0;      // mean over MTP's target tokens
  double balance_loss = 0;  // alpha times the mean over sequences, summed over gates
  double aux_loss = 0;      // router_aux_loss_coef times transformers' load-balancing loss over the
                            // global batch, all gates together
  double z_loss = 0;        // coefficient times the mean over tokens, summed over gates
  double grad_norm = 0;     // of the mean loss's gradient, before clipping
  bool skipped = false;     // loss or gradient not finite: nothing was changed
  int64_t num_targets = 0;
  std::vector<int64_t> load;  // [gates * experts] tokens routed, whole global batch
  StepSeconds seconds;
};

// Forward and backward by the schedule, gradient reduction, norm, clip, AdamW, bias update.
// Collective over all ranks.
absl::StatusOr<StepResult> TrainStep(RankModel& model, const DeviceBatch& batch,
                                     const StepOptions& options);

// Losses of a forward-only pass; grad_norm, skipped and load stay empty. *by_sequence, if not null,
// gets the sums that the losses are made of, every sequence's on every rank.
absl::StatusOr<StepResult> EvaluateStep(RankModel& model, const DeviceBatch& batch,
                                        int64_t global_sequences,
                                        SequenceSums* by_sequence = nullptr);

}  // namespace sluice::trainer
