#include "data/tiktoken.h"

#include <map>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "data/utf8.h"

namespace sluice::data {
namespace {

constexpr int kControlTokens = 256;

// The released pattern, with its classes [A&&[^\p{Han}]] written (?!\p{Han})[A].
constexpr absl::string_view kPattern =
    R"([\p{Han}]+|)"
    R"([^\r\n\p{L}\p{N}]?(?:(?!\p{Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])*)"
    R"((?:(?!\p{Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?(?:(?!\p{Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])+)"
    R"((?:(?!\p{Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// "BASE64 RANK" to bytes and rank.
bool ParseLine(absl::string_view line, std::string* bytes, int32_t* rank) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(line, absl::MaxSplits(' ', 1));
  return absl::Base64Unescape(parts.first, bytes) && !bytes->empty() &&
         absl::SimpleAtoi(parts.second, rank) && *rank >= 0;
}

}  // namespace

bool LooksLikeTiktoken(absl::string_view bytes) {
  std::string token;
  int32_t rank = -1;
  return ParseLine(bytes.substr(0, bytes.find('\n')), &token, &rank);
}

absl::StatusOr<TokenizerSpec> ParseTiktoken(absl::string_view bytes, const std::string& name,
                                            const std::vector<AddedToken>& config_tokens) {
  TokenizerSpec spec;
  int32_t base = 0, number = 0;
  for (const absl::string_view line : absl::StrSplit(bytes, '\n')) {
    ++number;
    if (line.empty()) continue;
    std::string token;
    int32_t rank = -1;
    if (!ParseLine(line, &token, &rank))
      return absl::InvalidArgumentError(
          absl::StrCat(name, ", line ", number, ": found '", absl::CHexEscape(line.substr(0, 40)),
                       "', wanted a token in base64, a space and its rank"));
    spec.vocab.emplace_back(ToByteLevel(token), rank);
    base = std::max(base, rank + 1);
  }
  std::map<int32_t, std::string> names;
  for (const AddedToken& token : config_tokens) names[token.id] = token.content;
  for (int32_t id = base; id < base + kControlTokens; ++id) {
    const auto named = names.find(id);
    spec.added_tokens.push_back({.content = named != names.end()
                                                ? named->second
                                                : absl::StrCat("<|reserved_token_", id, "|>"),
                                 .id = id,
                                 .special = true});
  }
  spec.pre_tokenizer.push_back({.pattern = std::string(kPattern)});
  spec.merges_are_ranks = spec.ignore_merges = spec.cuts_long_texts = true;
  return spec;
}

}  // namespace sluice::data
