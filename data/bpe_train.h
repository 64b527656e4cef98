// Trains a byte-level BPE vocabulary on text.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace sluice::data {

// Words: contractions, letters with at most one leading other character, one to three digits,
// punctuation with the line ends behind it, white space (the split of cl100k_base, in
// openai/tiktoken, tiktoken_ext/openai_public.py).
extern const char kDefaultSplitPattern[];

struct BpeTrainOptions {
  int vocab_size = 4096;  // special tokens and the 256 bytes included
  // Ids from 0, in this order. The bytes follow, by their character in the byte-level alphabet,
  // then the merges.
  std::vector<std::string> special_tokens = {"<|endoftext|>"};
  std::string split_pattern = kDefaultSplitPattern;
  int64_t min_count = 2;  // a pair seen less often is never merged
  int num_threads = 1;
};

// The result depends on the documents added (in any order) and the options only, never on the
// number of threads. The pair that occurs most often is merged next; of several, the one with the
// lowest left id, then the lowest right id. For the pattern above with min_count 0 that is the
// vocabulary that Hugging Face's BpeTrainer makes, if no document is longer than 1 MiB: a longer
// one is counted in parts that end behind a line feed. Not to be called from several threads at
// once.
class BpeTrainer {
 public:
  // INVALID_ARGUMENT: a vocabulary too small for bytes and special tokens, an empty or repeated
  // special token, a pattern that is not supported.
  static absl::StatusOr<std::unique_ptr<BpeTrainer>> Create(const BpeTrainOptions& options);
  virtual ~BpeTrainer() = default;

  // Counts the words. Bytes that are not UTF-8 count as U+FFFD.
  virtual void Add(std::span<const std::string> documents) = 0;
  // The text of a tokenizer.json. Its vocabulary is smaller than asked for when the text has too
  // few pairs. FAILED_PRECONDITION: no text was added.
  virtual absl::StatusOr<std::string> Train() const = 0;
};

}  // namespace sluice::data
