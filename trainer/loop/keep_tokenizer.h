// A run's own copy of its tokenizer, all that scoring and generation need besides a checkpoint.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace sluice::trainer {

// The file of a Hugging Face directory that data::LoadTokenizer is to read: tokenizer.json, else
// tiktoken.model; the path of the former where there is neither.
std::string TokenizerIn(const std::string& dir);

// Copies `tokenizer`, whatever its form, to DIR/tokenizer.json, and the tokenizer_config.json
// beside it, which names control tokens. Nothing to do where both are the same file. UNAVAILABLE
// when that cannot be written.
absl::Status KeepTokenizer(const std::string& tokenizer, const std::string& dir);

// The reverse: DIR's tokenizer to a Hugging Face directory, under the name of its form, with the
// tokenizer_config.json that other programs need; OK when there is none.
absl::Status ReleaseTokenizer(const std::string& dir, const std::string& to);

}  // namespace sluice::trainer
