// Log-probabilities of given tokens, with full logits and gradients for comparison with other
// implementations.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "trainer/loop/trainer.h"

namespace sluice::trainer {

struct ScoreOptions {
  std::string checkpoint;   // a generation or a run folder
  std::string tokenizer;    // empty: the run's
  std::string logits_path;  // if not empty: a safetensors file with logits.<line> [tokens, V] f32
  std::string routes_path;  // if not empty: a safetensors file with routes.<line>.<layer>
                            // [tokens, K] i32, the experts of each token, ascending; without MTP
  std::string gradients_path;  // if not empty: a safetensors file with the gradient of the mean
                               // main loss over all lines, by the name that Hugging
                               // Face's files have
};

// One line of input, either token ids or text.
struct ScoreInput {
  std::vector<int32_t> ids;
  std::string text;
  bool is_text = false;
  int64_t line = 0;  // its number for an error; 0: its place among the inputs
};

// logprobs[i] = log p(ids[i + 1] | ids[0..i]): one fewer than there are tokens. Done by the first
// rank; empty elsewhere. INVALID_ARGUMENT names the line: fewer than two tokens, more than a
// sequence, an id outside the vocabulary.
absl::StatusOr<std::vector<std::vector<float>>> Score(const ScoreOptions& options,
                                                      const std::vector<ScoreInput>& inputs,
                                                      const RankContext& rank);

}  // namespace sluice::trainer
