#include "data/pre_tokenizer.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::Create(
    const std::vector<PreTokenizerStep>& steps) {
  auto result = std::make_unique<PreTokenizer>();
  for (const PreTokenizerStep& spec : steps) {
    Step step{.spec = spec};
    if (spec.kind == PreTokenizerStep::Kind::kSplit && !spec.literal) {
      ASSIGN_OR_RETURN(step.pattern, SplitPattern::Compile(spec.pattern));
    }
    result->steps_.push_back(std::move(step));
  }
  return result;
}

PreTokenizer::Scratch PreTokenizer::NewScratch() const {
  Scratch scratch;
  for (const Step& step : steps_)
    scratch.push_back(step.pattern == nullptr ? nullptr : step.pattern->NewScratch());
  return scratch;
}

std::optional<std::pair<size_t, size_t>> PreTokenizer::FindMatch(size_t step,
                                                                 absl::string_view text,
                                                                 size_t from,
                                                                 Scratch& scratch) const {
  if (steps_[step].pattern != nullptr)
    return steps_[step].pattern->Find(text, from, *scratch[step]);
  const std::string& literal = steps_[step].spec.pattern;
  const size_t at = literal.empty() ? absl::string_view::npos : text.find(literal, from);
  if (at == absl::string_view::npos) return std::nullopt;
  return std::pair<size_t, size_t>(at, at + literal.size());
}

std::vector<PreTokenizer::Part> PreTokenizer::MergedParts(size_t step, absl::string_view text,
                                                          Scratch& scratch) const {
  std::vector<Part> parts;
  ForEachPart(step, text, scratch, [&parts](size_t begin, size_t end, bool is_match) {
    parts.push_back({begin, end, is_match});
  });
  const SplitBehavior behavior = steps_[step].spec.behavior;
  const bool backwards = behavior == SplitBehavior::kMergedWithNext;
  if (backwards) std::reverse(parts.begin(), parts.end());
  std::vector<Part> merged;
  bool previous_is_match = false;
  for (const Part& part : parts) {
    const bool merge = !merged.empty() && (behavior == SplitBehavior::kContiguous
                                               ? part.is_match == previous_is_match
                                               : part.is_match && !previous_is_match);
    if (merge) {
      merged.back().begin = std::min(merged.back().begin, part.begin);
      merged.back().end = std::max(merged.back().end, part.end);
    } else {
      merged.push_back(part);
    }
    previous_is_match = part.is_match;
  }
  if (backwards) std::reverse(merged.begin(), merged.end());
  return merged;
}

std::string PreTokenizer::Prefixed(const PreTokenizerStep& step, absl::string_view text,
                                   TextPlace place) {
  using Prefix = PreTokenizerStep::Prefix;
  if (step.kind == PreTokenizerStep::Kind::kPrefixSpace) {
    const bool wanted = place != TextPlace::kContinues && text[0] != ' ';
    return absl::StrCat(wanted ? " " : "", text);
  }
  const std::string& mark = step.pattern;
  std::string result = absl::StrReplaceAll(text, {{" ", mark}});
  const bool wanted = step.prefix == Prefix::kAlways
                          ? place != TextPlace::kContinues
                          : step.prefix == Prefix::kFirst && place == TextPlace::kStart;
  return wanted && !absl::StartsWith(result, mark) ? absl::StrCat(mark, result) : result;
}

}  // namespace sluice::data
