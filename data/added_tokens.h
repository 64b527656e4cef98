// Finds added tokens (special ones among them) that are spelled out in a text.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "data/tokenizer_json.h"

namespace sluice::data {

// Immutable; any thread.
class AddedTokenFinder {
 public:
  explicit AddedTokenFinder(std::vector<AddedToken> tokens);

  struct Part {
    size_t begin = 0, end = 0;
    int32_t id = -1;  // -1: text between added tokens
  };
  // Parts that tile `text`, none empty. Of the tokens that start at the leftmost place the longest
  // wins; the white space that lstrip and rstrip take along belongs to the token's part.
  std::vector<Part> Split(absl::string_view text) const;

 private:
  const AddedToken* LongestAt(absl::string_view text) const;  // at its beginning, or null
  std::vector<AddedToken> tokens_;                            // by content
  std::array<bool, 256> may_start_{};
};

}  // namespace sluice::data
