// Regular expressions over tensor names, as users write them in the configuration.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::trainer {

class NamePattern {
 public:
  // ECMAScript syntax. INVALID_ARGUMENT: `field` with the text and what is wrong in it.
  static absl::StatusOr<NamePattern> Create(absl::string_view field, const std::string& text);
  // Whether the pattern is found anywhere in the name. An empty pattern is found nowhere.
  bool IsFoundIn(const std::string& name) const;

 private:
  struct Compiled;
  std::shared_ptr<const Compiled> compiled_;  // shared by copies: it never changes
};

}  // namespace sluice::trainer
