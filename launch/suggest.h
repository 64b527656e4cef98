// "Did you mean ...?"
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace sluice::launch {

// Single-character insertions, deletions, replacements and swaps of neighbours that turn a into b.
int EditDistance(absl::string_view a, absl::string_view b);

// The candidate nearest to `word`, or "" when none is near enough to be what was meant.
std::string Nearest(absl::string_view word, const std::vector<std::string>& candidates);

// "; did you mean 'x'?" or "".
std::string DidYouMean(absl::string_view word, const std::vector<std::string>& candidates);

}  // namespace sluice::launch
