// Where Moonshot's tokenizers cut long texts, whatever stands there.
#pragma once

#include <vector>

#include "absl/strings/string_view.h"

namespace sluice::data {

inline constexpr size_t kUncutBytes = 25000;  // no shorter text is ever cut

// Cuts `text` (valid UTF-8) after each 400000 characters, and each of these parts where more than
// 25000 characters in a row are white space, or more than 25000 are not
// (tokenization_moonshot.py of moonshotai/Moonlight-16B-A3B).
std::vector<absl::string_view> CutLongText(absl::string_view text);

}  // namespace sluice::data
