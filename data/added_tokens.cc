#include "data/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "data/utf8.h"

namespace sluice::data {
namespace {

// \w of Rust's regex crate but for the few Other_Alphabetic symbols: letters, marks, decimal and
// letter numbers, connectors, and the joiners.
bool IsWordCharacter(uint32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return c == 0x200c || c == 0x200d;
  }
}

bool TouchesWord(absl::string_view text, size_t begin, size_t end) {
  if (begin > 0 && IsWordCharacter(CharacterBefore(text, begin).first)) return true;
  absl::string_view behind = text.substr(end);
  return !behind.empty() && IsWordCharacter(TakeCodePoint(&behind).value_or(0));
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& token) { return token.content.empty(); });
  std::stable_sort(tokens_.begin(), tokens_.end(),
                   [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
  for (const AddedToken& token : tokens_) may_start_[static_cast<uint8_t>(token.content[0])] = true;
}

const AddedToken* AddedTokenFinder::LongestAt(absl::string_view text) const {
  // [low, high): the tokens that agree with the first `depth` bytes of the text; sorted, so those
  // that end there come first.
  const AddedToken* longest = nullptr;
  auto low = tokens_.begin(), high = tokens_.end();
  for (size_t depth = 0; depth < text.size(); ++depth) {
    const auto byte_less = [depth](const AddedToken& token, uint8_t byte) {
      return token.content.size() <= depth || static_cast<uint8_t>(token.content[depth]) < byte;
    };
    const auto less_byte = [depth](uint8_t byte, const AddedToken& token) {
      return token.content.size() > depth && byte < static_cast<uint8_t>(token.content[depth]);
    };
    const auto byte = static_cast<uint8_t>(text[depth]);
    low = std::lower_bound(low, high, byte, byte_less);
    high = std::upper_bound(low, high, byte, less_byte);
    if (low == high) break;
    if (low->content.size() == depth + 1) longest = &*low;
  }
  return longest;
}

std::vector<AddedTokenFinder::Part> AddedTokenFinder::Split(absl::string_view text) const {
  std::vector<Part> parts;
  size_t done = 0, at = 0;
  while (at < text.size()) {
    if (!may_start_[static_cast<uint8_t>(text[at])]) {
      ++at;
      continue;
    }
    const AddedToken* token = LongestAt(text.substr(at));
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + token->content.size();
    at = end;
    if (token->single_word && TouchesWord(text, begin, end)) continue;
    while (token->lstrip && begin > done) {
      const auto [c, before] = CharacterBefore(text, begin);
      if (!IsWhiteSpace(c)) break;
      begin = before;
    }
    while (token->rstrip && end < text.size()) {
      absl::string_view behind = text.substr(end);
      if (!IsWhiteSpace(TakeCodePoint(&behind).value_or(0))) break;
      end = text.size() - behind.size();
    }
    if (done < begin) parts.push_back({done, begin, -1});
    parts.push_back({begin, end, token->id});
    done = at = end;
  }
  if (done < text.size()) parts.push_back({done, text.size(), -1});
  return parts;
}

}  // namespace sluice::data
