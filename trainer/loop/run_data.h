// The text of a run: vocabulary and token files, made on first use, and the sequences read from
// them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/batch_source.h"
#include "data/tokenizer.h"
#include "trainer/loop/device_batch.h"
#include "trainer/loop/trainer.h"

namespace sluice::trainer {

class RunData {
 public:
  // Rank 0 makes what is missing (vocabulary, token files), then every rank opens it. Without
  // data.train only the validation text can be read. Collective.
  static absl::StatusOr<std::unique_ptr<RunData>> Open(const RunConfig& config,
                                                       const RankContext& rank);

  // Sequences [first, first + count) of the training data: a pure function of configuration and
  // index.
  absl::Status ReadTrain(int64_t first, int64_t count, HostBatch* batch) const;
  // Sequences of one epoch.
  int64_t num_train_sequences() const { return train_ ? train_->num_samples_per_epoch() : 0; }
  // Sequences of the validation text, in order; there are num_validation_sequences().
  absl::Status ReadValidation(int64_t first, int64_t count, HostBatch* batch) const;
  int64_t num_validation_sequences() const;
  // Packed conversations, which must not see each other.
  bool validates_conversations() const { return validates_conversations_; }
  double validation_bytes_per_token() const { return validation_bytes_per_token_; }
  // What the training data is: two runs with equal identities read the same tokens. Empty without.
  std::string train_identity() const { return train_ ? train_->info().identity : ""; }
  const data::Tokenizer& tokenizer() const { return *tokenizer_; }
  const std::string& tokenizer_path() const { return tokenizer_path_; }

 private:
  RunData() = default;
  static absl::Status Read(const data::BatchSource& source, int64_t first, int64_t count,
                           HostBatch* batch);

  std::string tokenizer_path_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  std::unique_ptr<data::BatchSource> train_, validation_;
  double validation_bytes_per_token_ = 0;
  bool validates_conversations_ = false;
};

}  // namespace sluice::trainer
