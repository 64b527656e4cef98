// The regular expressions that cut text into words before BPE, as tokenizer.json writes them: in
// Oniguruma's dialect, run here by PCRE2 with its JIT compiler.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::data {

// The pattern in PCRE2's dialect: `\s` and `\w` get Oniguruma's Unicode meaning (White_Space;
// Alphabetic, M, Nd, Pc and a few), script names mean Script. INVALID_ARGUMENT names a construct
// that the two dialects read differently and that is not translated.
absl::StatusOr<std::string> TranslateOniguruma(absl::string_view pattern);

class SplitPattern {
 public:
  // What one thread needs to match; belongs to one pattern.
  class Scratch;
  struct ScratchDeleter {
    void operator()(Scratch* scratch) const;
  };
  using ScratchPtr = std::unique_ptr<Scratch, ScratchDeleter>;

  // INVALID_ARGUMENT: not a regular expression, or one that TranslateOniguruma refuses.
  static absl::StatusOr<std::unique_ptr<SplitPattern>> Compile(absl::string_view oniguruma);
  virtual ~SplitPattern() = default;

  virtual ScratchPtr NewScratch() const = 0;
  // The first match in `text` (valid UTF-8) that starts at or after `from`, as [begin, end).
  virtual std::optional<std::pair<size_t, size_t>> Find(absl::string_view text, size_t from,
                                                        Scratch& scratch) const = 0;
};

}  // namespace sluice::data
