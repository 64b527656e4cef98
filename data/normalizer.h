// What is done to a text before it is cut into words, as tokenizer.json orders it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "data/split_pattern.h"
#include "data/tokenizer_json.h"

namespace sluice::data {

// Immutable; any thread.
class Normalizer {
 public:
  // INVALID_ARGUMENT: a pattern is not supported.
  static absl::StatusOr<std::unique_ptr<Normalizer>> Create(
      const std::vector<NormalizerStep>& steps);

  // False: Apply would give `text` back as it is (it may be false only then).
  bool MayChange(absl::string_view text) const;
  // `text` must be valid UTF-8. `continues`: nothing is put before it.
  std::string Apply(std::string text, bool continues = false) const;

 private:
  struct Step {
    NormalizerStep spec;
    std::unique_ptr<SplitPattern> pattern;  // of kReplace, null if literal
  };
  std::vector<Step> steps_;
  bool forms_only_ = true;  // ASCII text stays as it is
};

}  // namespace sluice::data
