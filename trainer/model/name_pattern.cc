// The one file that uses <regex>, which throws.
#include "trainer/model/name_pattern.h"

#include <regex>

#include "absl/strings/str_cat.h"

namespace sluice::trainer {

struct NamePattern::Compiled {
  std::regex regex;
};

absl::StatusOr<NamePattern> NamePattern::Create(absl::string_view field, const std::string& text) {
  NamePattern pattern;
  if (text.empty()) return pattern;
  try {
    pattern.compiled_ = std::make_shared<const Compiled>(Compiled{std::regex(text)});
  } catch (const std::regex_error& error) {
    return absl::InvalidArgumentError(absl::StrCat(
        field, ": found \"", text, "\", wanted a regular expression (", error.what(), ")"));
  }
  return pattern;
}

bool NamePattern::IsFoundIn(const std::string& name) const {
  return compiled_ != nullptr && std::regex_search(name, compiled_->regex);
}

}  // namespace sluice::trainer
