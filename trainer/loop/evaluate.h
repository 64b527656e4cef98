// Loss on held-out text.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "trainer/loop/device_batch.h"
#include "trainer/loop/rank_model.h"
#include "trainer/loop/run_data.h"

namespace sluice::trainer {

struct EvaluationResult {
  double loss = 0;           // mean cross-entropy of a token, nats
  double perplexity = 0;     // e^loss
  double bits_per_byte = 0;  // of the text that the tokens stand for
  int64_t tokens = 0;
};

// Reads the validation text in order, `batches` global batches of it (0: all). Collective.
absl::StatusOr<EvaluationResult> EvaluateText(RankModel& model, const RunData& data,
                                              int64_t batches);

// How batches of a run are cut; those of its validation data.
BatchOptions MakeBatchOptions(const RunConfig& config);
BatchOptions MakeValidationOptions(const RunConfig& config, const RunData& data);

std::string EvaluationLine(const EvaluationResult& result, int64_t step);
std::string EvaluationJson(const EvaluationResult& result, int64_t step);

}  // namespace sluice::trainer
