// Lines of JSON objects, as corpora and `sluice tokenize --ids` have them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::data {

// The fields of one line that we know; others are ignored.
struct JsonLine {
  std::optional<std::string> text;          // "text": a string
  std::optional<std::vector<int32_t>> ids;  // "ids": a list of integers
};

// INVALID_ARGUMENT: not a JSON object, or a known field of another type. `line` must be UTF-8.
absl::StatusOr<JsonLine> ParseJsonLine(absl::string_view line);

std::string IdsAsJsonLine(std::span<const int32_t> ids);  // {"ids": [1, 2]}, no line end
std::string TextAsJsonLine(absl::string_view text);       // {"text": "..."}; valid UTF-8

}  // namespace sluice::data
