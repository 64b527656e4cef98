#include "trainer/loop/evaluate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "absl/strings/str_format.h"
#include "kernels/core/status_macros.h"
#include "nlohmann/json.hpp"
#include "trainer/loop/run_state.h"
#include "trainer/loop/train_step.h"

namespace sluice::trainer {

BatchOptions MakeBatchOptions(const RunConfig& config) {
  BatchOptions options;
  options.sequence_length = config.train().sequence_length();
  options.microbatch = config.train().microbatch();
  options.mtp_depth = config.model().num_nextn_predict_layers();
  options.document_mask = config.data().document_mask();
  return options;
}

BatchOptions MakeValidationOptions(const RunConfig& config, const RunData& data) {
  BatchOptions options = MakeBatchOptions(config);
  if (data.validates_conversations()) options.document_mask = true;
  return options;
}

absl::StatusOr<EvaluationResult> EvaluateText(RankModel& model, const RunData& data,
                                              int64_t batches) {
  const RunConfig& config = model.config();
  // The same shapes as in training, so that nothing is allocated for it.
  const int64_t per_batch = config.train().global_batch(),
                per_rank = per_batch / config.mesh().data();
  const int64_t mine = per_rank * model.data_rank();
  int64_t num_batches = (data.num_validation_sequences() + per_batch - 1) / per_batch;
  if (batches > 0) num_batches = std::min(num_batches, batches);
  DeviceBatch batch(model.device(), MakeValidationOptions(config, data));
  double nats = 0;
  EvaluationResult result;
  for (int64_t b = 0; b < num_batches; ++b) {
    HostBatch host;
    RETURN_IF_ERROR(
        AgreeOnStatus(model.world(), data.ReadValidation(b * per_batch + mine, per_rank, &host)));
    RETURN_IF_ERROR(batch.Load(host, mine));
    ASSIGN_OR_RETURN(const StepResult step, EvaluateStep(model, batch, per_batch));
    if (step.num_targets == 0) continue;
    nats += step.loss * static_cast<double>(step.num_targets);
    result.tokens += step.num_targets;
  }
  if (result.tokens == 0)
    return absl::FailedPreconditionError("validation text: found no token to predict");
  result.loss = nats / static_cast<double>(result.tokens);
  result.perplexity = std::exp(result.loss);
  result.bits_per_byte = result.loss / std::numbers::ln2 / data.validation_bytes_per_token();
  return result;
}

std::string EvaluationLine(const EvaluationResult& r, int64_t step) {
  return absl::StrFormat(
      "eval after step %d | loss %.4f | perplexity %.2f | bits per byte %.4f | %d tokens", step,
      r.loss, r.perplexity, r.bits_per_byte, r.tokens);
}

std::string EvaluationJson(const EvaluationResult& r, int64_t step) {
  nlohmann::ordered_json row;
  row["step"] = step;
  row["loss"] = r.loss;
  row["perplexity"] = r.perplexity;
  row["bits_per_byte"] = r.bits_per_byte;
  row["tokens"] = r.tokens;
  return row.dump();
}

}  // namespace sluice::trainer
