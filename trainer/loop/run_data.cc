#include "trainer/loop/run_data.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "trainer/loop/run_state.h"

namespace sluice::trainer {

absl::Status RunData::Read(const data::BatchSource& source, int64_t first, int64_t count,
                           HostBatch* batch) {
  const int64_t row = source.sequence_length() + 1;
  data::DocumentStarts starts;
  batch->tokens.resize(count * row);
  RETURN_IF_ERROR(
      source.Read(first, static_cast<int>(count), std::span<int32_t>(batch->tokens), &starts));
  batch->document_starts.resize(count);
  batch->num_targets.resize(count);
  for (int64_t s = 0; s < count; ++s) {
    const std::span<const int32_t> places = starts.Of(static_cast<int>(s));
    batch->document_starts[s].assign(places.begin(), places.end());
    batch->num_targets[s] = source.NumTargets(first + s);
  }
  return absl::OkStatus();
}

absl::Status RunData::ReadTrain(int64_t first, int64_t count, HostBatch* batch) const {
  return Read(*train_, first, count, batch);
}

absl::Status RunData::ReadValidation(int64_t first, int64_t count, HostBatch* batch) const {
  return Read(*validation_, first, count, batch);
}

int64_t RunData::num_validation_sequences() const {
  return validation_ != nullptr ? validation_->num_samples_per_epoch() : 0;
}

}  // namespace sluice::trainer
