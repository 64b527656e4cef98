#include <cctype>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/core/status_macros.h"
#include "parallel/schedule/schedule.h"

namespace sluice::parallel {
namespace {

struct Spelling {
  ActionKind kind;
  absl::string_view text;
};
// Longer spellings first, so that a prefix never hides them.
constexpr Spelling kSpellings[] = {
    {ActionKind::kSendActivation, "sa"}, {ActionKind::kReceiveActivation, "ra"},
    {ActionKind::kSendGradient, "sg"},   {ActionKind::kReceiveGradient, "rg"},
    {ActionKind::kForward, "F"},         {ActionKind::kBackwardInput, "I"},
    {ActionKind::kBackwardWeight, "W"},  {ActionKind::kBackward, "B"},
};

absl::string_view SpellingOf(ActionKind kind) {
  for (const Spelling& spelling : kSpellings) {
    if (spelling.kind == kind) return spelling.text;
  }
  return "?";
}

absl::StatusOr<Action> ParseSimple(absl::string_view word) {
  for (const Spelling& spelling : kSpellings) {
    absl::string_view rest = word;
    if (!absl::ConsumePrefix(&rest, spelling.text)) continue;
    const std::vector<std::string> numbers = absl::StrSplit(rest, '.');
    int stage = 0, microbatch = 0;
    if (numbers.size() == 2 && absl::SimpleAtoi(numbers[0], &stage) &&
        absl::SimpleAtoi(numbers[1], &microbatch) && stage >= 0 && stage < 32768 &&
        microbatch >= 0 && microbatch < 32768) {
      return Action{spelling.kind, static_cast<int16_t>(stage), static_cast<int16_t>(microbatch)};
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("action: found \"", word, "\", wanted one such as F0.3 or (F0.3|B1.2)"));
}

absl::StatusOr<Action> ParseAction(absl::string_view word) {
  absl::string_view inner = word;
  if (!absl::ConsumePrefix(&inner, "(") || !absl::ConsumeSuffix(&inner, ")"))
    return ParseSimple(word);
  const std::vector<std::string> halves = absl::StrSplit(inner, '|');
  if (halves.size() != 2) return ParseSimple(word);
  ASSIGN_OR_RETURN(Action forward, ParseSimple(halves[0]));
  ASSIGN_OR_RETURN(const Action backward, ParseSimple(halves[1]));
  if (forward.kind != ActionKind::kForward || backward.kind != ActionKind::kBackward)
    return ParseSimple(word);
  forward.kind = ActionKind::kOverlap;
  forward.backward_stage = backward.stage;
  forward.backward_microbatch = backward.microbatch;
  return forward;
}

}  // namespace

std::string ToText(const Action& action) {
  if (action.kind == ActionKind::kOverlap) {
    return absl::StrCat("(F", action.stage, ".", action.microbatch, "|B", action.backward_stage,
                        ".", action.backward_microbatch, ")");
  }
  return absl::StrCat(SpellingOf(action.kind), action.stage, ".", action.microbatch);
}

std::string ToText(const Schedule& schedule) {
  std::string text;
  for (const std::vector<Action>& actions : schedule.actions) {
    for (size_t i = 0; i < actions.size(); ++i)
      absl::StrAppend(&text, i > 0 ? " " : "", ToText(actions[i]));
    text += "\n";
  }
  return text;
}

absl::StatusOr<std::vector<std::vector<Action>>> ParseActions(absl::string_view text) {
  std::vector<std::vector<Action>> ranks;
  for (absl::string_view line : absl::StrSplit(absl::StripSuffix(text, "\n"), '\n')) {
    ranks.emplace_back();
    for (absl::string_view word : absl::StrSplit(line, ' ', absl::SkipWhitespace())) {
      ASSIGN_OR_RETURN(const Action action, ParseAction(word));
      ranks.back().push_back(action);
    }
  }
  return ranks;
}

}  // namespace sluice::parallel
