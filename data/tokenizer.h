// A tokenizer: text to token ids and back. Encode never fails: every string has a token form.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::data {

// Which added tokens become their ids where they are spelled out in a text.
enum class AddedTokens : uint8_t {
  kAll,        // as Hugging Face's library has it
  kNoControl,  // all but control tokens: special ones, and those that begin with "<|" or "<U+FF5C"
  kNone        // the text is only text
};

// Where a text stands, for tokenizers that put a space before a text.
enum class TextPlace : uint8_t {
  kStart,       // it is the whole text, or the beginning of it
  kAfterToken,  // an added token stands before it
  kContinues    // it goes on where another text ended: no space is put before it
};

struct EncodeOptions {
  AddedTokens added_tokens = AddedTokens::kAll;
  TextPlace place = TextPlace::kStart;
};

// Immutable; all members may be called from any number of threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // The ids of `utf8`, without BOS or EOS. Added tokens that are spelled out in the text become
  // their ids. Bytes that are not UTF-8 are read as U+FFFD.
  std::vector<int32_t> Encode(absl::string_view utf8) const { return Encode(utf8, {}); }
  virtual std::vector<int32_t> Encode(absl::string_view utf8,
                                      const EncodeOptions& options) const = 0;
  // The same with the BOS and EOS that the tokenizer's files ask for.
  virtual std::vector<int32_t> EncodeWithSpecialTokens(absl::string_view utf8) const = 0;
  // The text of `ids`. Bytes that do not form UTF-8 (an id may be a part of a character) become
  // U+FFFD. INVALID_ARGUMENT for an id that is no token.
  virtual absl::StatusOr<std::string> Decode(std::span<const int32_t> ids,
                                             bool skip_special_tokens = false) const = 0;

  virtual int vocab_size() const = 0;  // largest id + 1, added tokens included
  virtual int eos_id() const = 0;      // the token that ends a document, -1 when there is none
  virtual int bos_id() const = 0;      // -1 when there is none
  virtual int IdOf(absl::string_view token) const = 0;  // of an added token by content, else -1
  virtual std::string hash() const = 0;                 // SHA-256 of tokenizer.json, 64 hex digits
};

// Reads a Hugging Face tokenizer.json with BPE, or a tiktoken.model of Moonshot's models, whichever
// the file's content is. A tokenizer_config.json in the same folder, if there is one, names BOS and
// EOS and says whether EncodeWithSpecialTokens adds them, and a tiktoken.model needs one that names
// Moonshot's class; without it BOS and EOS are found by their usual names among the special tokens.
// NOT_FOUND: no such file. INVALID_ARGUMENT: not JSON, inconsistent, or a construct this reader
// does not know, which the message names.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& tokenizer_json_path);

}  // namespace sluice::data
