// How often a model gives the right one of some answers the highest probability.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "trainer/loop/trainer.h"

namespace sluice::trainer {

struct MultipleChoiceOptions {
  std::string checkpoint;     // a generation or a run folder
  std::string tokenizer;      // empty: the run's
  std::string path;           // JSONL, see data/multiple_choice.h
  std::string chat_template;  // empty: question and answer are text, a space between them
};

struct MultipleChoiceResult {
  int64_t questions = 0;
  double accuracy = 0;             // by the sum of an answer's log-probabilities
  double normalized_accuracy = 0;  // by that sum a character of the answer
  double chance = 0;               // of one who guesses
  int64_t num_cut = 0;             // questions longer than a sequence: their beginning is left out
};

// The rule is that of EleutherAI's lm-evaluation-harness (acc and acc_norm): question and answer
// are tokenized as one text, and of equal answers the first counts. Collective; the model is laid
// out over all ranks, and every rank gets the result. INVALID_ARGUMENT names file and line of what
// is no question, or has an answer longer than a sequence.
absl::StatusOr<MultipleChoiceResult> EvaluateMultipleChoice(const MultipleChoiceOptions& options,
                                                            const RankContext& rank);

std::string MultipleChoiceLine(const MultipleChoiceResult& result);
std::string MultipleChoiceJson(const MultipleChoiceResult& result);

}  // namespace sluice::trainer
