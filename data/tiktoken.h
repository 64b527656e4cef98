// tiktoken.model files: a vocabulary of byte strings whose ids are the ranks of the merges.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "data/tokenizer_json.h"

namespace sluice::data {

// Lines of BASE64 SPACE RANK.
bool LooksLikeTiktoken(absl::string_view bytes);

// The tokenizer_class in tokenizer_config.json of Moonshot's releases; it alone says which pattern
// goes with the vocabulary.
inline constexpr char kMoonshotClass[] = "TikTokenTokenizer";

// The tokenizer of Moonshot's models (Moonlight, Kimi K2): their pattern, and 256 control tokens
// behind the vocabulary, named by `config_tokens` (added_tokens_decoder of tokenizer_config.json)
// or "<|reserved_token_ID|>" (tokenization_moonshot.py of moonshotai/Moonlight-16B-A3B).
// INVALID_ARGUMENT starts with `name` and says which line is wrong.
absl::StatusOr<TokenizerSpec> ParseTiktoken(absl::string_view bytes, const std::string& name,
                                            const std::vector<AddedToken>& config_tokens);

}  // namespace sluice::data
