// tokenizer.json as plain data. This is the whole of what we read of Hugging Face's format; what is
// not here is refused by name.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::data {

enum class UnicodeForm : uint8_t { kNfc, kNfd, kNfkc, kNfkd };

// What becomes of the parts of a text when a pattern matches some of them.
enum class SplitBehavior : uint8_t {
  kRemoved,             // matches vanish
  kIsolated,            // each match is a part of its own
  kMergedWithPrevious,  // a match belongs to what stands before it
  kMergedWithNext,      // a match belongs to what stands behind it
  kContiguous           // as kIsolated, but neighbouring matches form one part
};

struct PreTokenizerStep {
  enum class Kind : uint8_t { kSplit, kPrefixSpace };
  Kind kind = Kind::kSplit;
  // kSplit:
  std::string pattern;  // Oniguruma's dialect, or the text itself if `literal`
  bool literal = false;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // what does not match counts as the match
};

struct AddedToken {  // text that is recognised before anything else is done
  std::string content;
  int32_t id = -1;
  bool special = false;
  bool normalized = false;   // looked for after normalisation, in its normal form
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // takes the white space behind it along
  bool single_word = false;  // only if no word character touches it
};

struct TokenizerSpec {
  std::vector<UnicodeForm> normalizers;
  std::vector<PreTokenizerStep> pre_tokenizer;
  std::vector<AddedToken> added_tokens;                     // by ascending id
  std::vector<std::pair<std::string, int32_t>> vocab;       // token in the byte-level alphabet, id
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  std::string unknown_token;                                // empty: none
  bool ignore_merges = false;  // a word that is a token is that token, whatever the merges say
  std::vector<int32_t> prefix_ids, suffix_ids;  // what EncodeWithSpecialTokens adds
};

// INVALID_ARGUMENT starts with `name` (a file's) and says what is wrong or not supported.
absl::StatusOr<TokenizerSpec> ParseTokenizerJson(absl::string_view json, const std::string& name);

// What we use of tokenizer_config.json.
struct TokenizerConfig {
  std::string bos_token, eos_token;  // empty: none named
  bool add_bos_token = false, add_eos_token = false;
};
absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(absl::string_view json,
                                                     const std::string& name);

// The JSON text of a byte-level BPE tokenizer: one Split by spec.pre_tokenizer[0].pattern, then
// ByteLevel. CHECKs that the spec is no more than that; normalizers, prefix_ids and suffix_ids must
// be empty. spec.vocab must hold the added tokens too.
std::string WriteTokenizerJson(const TokenizerSpec& spec);

}  // namespace sluice::data
