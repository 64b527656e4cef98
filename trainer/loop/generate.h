// Text from a checkpoint.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/tokenizer.h"
#include "trainer/loop/rank_model.h"
#include "trainer/loop/sample_token.h"

namespace sluice::trainer {

struct GenerateOptions {
  std::string checkpoint;  // a generation or a run folder
  std::string tokenizer;   // empty: the run's
  std::string prompt = "The ";
  std::string chat_template;  // the prompt is a user's message and the text its answer; empty: no
  int64_t max_tokens = 128;
  SamplingOptions sampling;
};

// The prompt and what follows it, until max_tokens or the end of the document; with a chat template
// the answer alone, until the end of its turn. Works on any number
// of ranks: the first does it with a cache, the others return an empty string. Longer than the
// model's max_position_embeddings: INVALID_ARGUMENT.
absl::StatusOr<std::string> Generate(const GenerateOptions& options, const RankContext& rank);

// A sample from a model in training, on its own mesh, without a cache: every token is a forward
// pass. The same text on every rank. Collective. The prompt and the sample together are at most a
// training sequence long.
absl::StatusOr<std::string> SampleText(RankModel& model, const data::Tokenizer& tokenizer,
                                       const std::string& prompt, int64_t max_tokens,
                                       const SamplingOptions& sampling);

}  // namespace sluice::trainer
