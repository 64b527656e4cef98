// Cuts text into the words that BPE works on.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "data/split_pattern.h"
#include "data/tokenizer.h"
#include "data/tokenizer_json.h"

namespace sluice::data {

// Immutable; any thread, each with its own scratch.
class PreTokenizer {
 public:
  using Scratch = std::vector<SplitPattern::ScratchPtr>;  // one a step
  // INVALID_ARGUMENT: a pattern is not supported.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> Create(
      const std::vector<PreTokenizerStep>& steps);

  Scratch NewScratch() const;

  // Calls sink(word) for each word of `text` (valid UTF-8), in order; words are never empty and
  // live only during the call.
  template <typename Sink>
  void ForEachWord(absl::string_view text, TextPlace place, Scratch& scratch,
                   const Sink& sink) const {
    RunStep(0, text, place, scratch, sink);
  }

 private:
  struct Step {
    PreTokenizerStep spec;
    std::unique_ptr<SplitPattern> pattern;  // null if literal or no split
  };
  struct Part {
    size_t begin, end;
    bool is_match;
  };

  std::optional<std::pair<size_t, size_t>> FindMatch(size_t step, absl::string_view text,
                                                     size_t from, Scratch& scratch) const;
  // For the behaviours that look at neighbours: all parts of `text`, merged as the step says.
  std::vector<Part> MergedParts(size_t step, absl::string_view text, Scratch& scratch) const;

  // Calls part(begin, end, is_match) for consecutive ranges that tile `text`.
  template <typename OnPart>
  void ForEachPart(size_t step, absl::string_view text, Scratch& scratch,
                   const OnPart& part) const {
    const bool invert = steps_[step].spec.invert;
    size_t done = 0, from = 0;
    bool any = false;
    while (from <= text.size()) {
      const auto match = FindMatch(step, text, from, scratch);
      if (!match) break;
      const auto [begin, end] = *match;
      if (begin == end && any && begin == done) {
        // An empty match right behind the last one is no progress: search on one character later.
        from = begin + 1;
        while (from < text.size() && (static_cast<uint8_t>(text[from]) & 0xc0) == 0x80) ++from;
        continue;
      }
      if (done != begin) part(done, begin, invert);
      if (begin != end) part(begin, end, !invert);
      done = from = end;
      any = true;
    }
    if (done != text.size()) part(done, text.size(), invert);
  }

  // The text with what the step puts before it.
  static std::string Prefixed(const PreTokenizerStep& step, absl::string_view text,
                              TextPlace place);

  template <typename Sink>
  void RunStep(size_t step, absl::string_view text, TextPlace place, Scratch& scratch,
               const Sink& sink) const {
    if (text.empty()) return;
    if (step == steps_.size()) return sink(text);
    const auto next = [&](size_t begin, size_t end) {
      RunStep(step + 1, text.substr(begin, end - begin),
              begin == 0 ? place : TextPlace::kAfterToken, scratch, sink);
    };
    if (steps_[step].spec.kind != PreTokenizerStep::Kind::kSplit)
      return RunStep(step + 1, Prefixed(steps_[step].spec, text, place), place, scratch, sink);
    switch (steps_[step].spec.behavior) {
      case SplitBehavior::kIsolated:
        return ForEachPart(step, text, scratch,
                           [&](size_t begin, size_t end, bool) { next(begin, end); });
      case SplitBehavior::kRemoved:
        return ForEachPart(step, text, scratch, [&](size_t begin, size_t end, bool is_match) {
          if (!is_match) next(begin, end);
        });
      case SplitBehavior::kMergedWithPrevious:
      case SplitBehavior::kMergedWithNext:
      case SplitBehavior::kContiguous:
        for (const Part& part : MergedParts(step, text, scratch)) next(part.begin, part.end);
        return;
    }
  }

  std::vector<Step> steps_;
};

}  // namespace sluice::data
