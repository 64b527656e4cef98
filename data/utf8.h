// UTF-8 and the byte-level alphabet of GPT-2.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace sluice::data {

// Appends `code_point` (at most 0x10ffff) as UTF-8.
void AppendUtf8(uint32_t code_point, std::string* out);

// Takes the first character off `text` (not empty). Nothing when its first bytes are not UTF-8:
// then `text` loses the longest prefix of a valid character that is there, one byte at least
// (Unicode 15, section 3.9, "maximal subpart").
std::optional<uint32_t> TakeCodePoint(absl::string_view* text);

// The character that ends at text[end), and where it begins. `text` is valid UTF-8, end > 0.
std::pair<uint32_t, size_t> CharacterBefore(absl::string_view text, size_t end);

bool IsWhiteSpace(uint32_t code_point);  // White_Space of Unicode (PropList.txt)

bool IsValidUtf8(absl::string_view text);

// Appends `text` with each maximal subpart that is not UTF-8 replaced by U+FFFD; returns how many.
int64_t AppendAsValidUtf8(absl::string_view text, std::string* out);
// "N places were not UTF-8 and became U+FFFD", for warnings.
std::string ReplacedText(int64_t num_replaced);

// Byte-level BPE writes tokens in an alphabet of 256 printable characters, one for each byte: the
// printable Latin-1 characters stand for themselves, the others for U+0100 onwards, in order
// (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; encoder.py of
// GPT-2).
const std::array<uint32_t, 256>& ByteLevelAlphabet();
// The bytes as characters of that alphabet.
std::string ToByteLevel(absl::string_view bytes);
// The bytes that such a string stands for; nothing when it has a character outside the alphabet.
std::optional<std::string> FromByteLevel(absl::string_view symbols);

}  // namespace sluice::data
