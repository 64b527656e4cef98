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

struct NormalizerStep {
  enum class Kind : uint8_t {
    kForm,         // to a normal form of Unicode
    kPrepend,      // `text` before a text that is not empty
    kReplace,      // each match of `text` by `content`
    kLowercase,    // character by character
    kStrip,        // white space from the ends
    kStripAccents  // no marks (M)
  };
  Kind kind = Kind::kForm;
  UnicodeForm form = UnicodeForm::kNfc;
  std::string text, content;
  bool literal = true;  // kReplace: `text` is the text itself, not Oniguruma's dialect
  bool left = true, right = true;
};

// What becomes of the parts of a text when a pattern matches some of them.
enum class SplitBehavior : uint8_t {
  kRemoved,             // matches vanish
  kIsolated,            // each match is a part of its own
  kMergedWithPrevious,  // a match belongs to what stands before it
  kMergedWithNext,      // a match belongs to what stands behind it
  kContiguous           // as kIsolated, but neighbouring matches form one part
};

struct PreTokenizerStep {
  enum class Kind : uint8_t {
    kSplit,
    kPrefixSpace,  // a space before each part that has none
    kMetaspace     // spaces become `pattern`, which is put before parts as `prefix` says
  };
  enum class Prefix : uint8_t { kAlways, kFirst, kNever };  // kFirst: where the whole text begins
  Kind kind = Kind::kSplit;
  Prefix prefix = Prefix::kAlways;  // of kMetaspace
  // kSplit:
  std::string pattern;  // Oniguruma's dialect, or the text itself if `literal`
  bool literal = false;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // what does not match counts as the match
};

struct DecoderStep {
  enum class Kind : uint8_t {
    kByteLevel,     // all tokens to one, by the byte-level alphabet
    kByteFallback,  // runs of <0xXX> to text
    kFuse,          // all tokens to one
    kReplace,       // `text` by `content`
    kStrip,         // up to `start` and `stop` times `text` from the ends of each token
    kMetaspace,     // `text` to a space, or to nothing in the first token if `drops_first`
    kSpaces         // all tokens to one, with spaces between them
  };
  Kind kind = Kind::kByteLevel;
  std::string text, content;
  int start = 0, stop = 0;
  bool drops_first = false;
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
  std::vector<NormalizerStep> normalizers;
  std::vector<PreTokenizerStep> pre_tokenizer;
  std::vector<DecoderStep> decoder = {{}};  // default: byte-level
  bool byte_level = true;  // words are bytes in the byte-level alphabet; else they are characters
  std::vector<AddedToken> added_tokens;                     // by ascending id
  std::vector<std::pair<std::string, int32_t>> vocab;       // token as written, id
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  bool merges_are_ranks = false;  // no merges: a pair merges if it is a token, lowest id first
  bool cuts_long_texts = false;   // before anything else, as TextCutter does
  std::string unknown_token;      // empty: none
  bool fuse_unknown = false;      // neighbouring unknown characters are one token
  bool byte_fallback = false;     // an unknown character is its bytes' tokens <0xXX>, if there
  bool ignore_merges = false;     // a word that is a token is that token, whatever the merges say
  std::vector<int32_t> prefix_ids, suffix_ids;  // what EncodeWithSpecialTokens adds
};

// INVALID_ARGUMENT starts with `name` (a file's) and says what is wrong or not supported.
absl::StatusOr<TokenizerSpec> ParseTokenizerJson(absl::string_view json, const std::string& name);

// What we use of tokenizer_config.json.
struct TokenizerConfig {
  std::string tokenizer_class;       // of transformers, or of code beside the file; may be empty
  std::string bos_token, eos_token;  // empty: none named
  bool add_bos_token = false, add_eos_token = false;
  std::vector<AddedToken> added_tokens;  // added_tokens_decoder
};
absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(absl::string_view json,
                                                     const std::string& name);

// The JSON text of a byte-level BPE tokenizer: one Split by spec.pre_tokenizer[0].pattern, then
// ByteLevel. CHECKs that the spec is no more than that; normalizers, prefix_ids and suffix_ids must
// be empty. spec.vocab must hold the added tokens too.
std::string WriteTokenizerJson(const TokenizerSpec& spec);

}  // namespace sluice::data
