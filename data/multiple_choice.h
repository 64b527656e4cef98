// Questions with given answers, one JSON object a line.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::data {

struct Question {
  std::string prompt;
  std::vector<std::string> choices;  // at least two
  int answer = 0;                    // index of the right one
};

// {"question": ..., "choices": [...], "answer": ...}. "ctx" and "prompt" stand for "question",
// "endings" for "choices", "label" and "answerKey" for "answer" (so HellaSwag and ARC are read as
// they are); choices may be {"text": [...], "label": [...]}. The answer is an index from 0, a
// choice's label, a letter from A, or the choice itself.
// INVALID_ARGUMENT says what is wrong. `line` must be UTF-8.
absl::StatusOr<Question> ParseQuestion(absl::string_view line);

}  // namespace sluice::data
