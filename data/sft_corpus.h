// Conversations in, token files with loss masks out.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "data/chat_template.h"
#include "data/tokenize_corpus.h"

namespace sluice::data {

struct SftCorpusResult {
  int64_t conversations = 0;
  int64_t tokens = 0, targets = 0;
  int64_t text_bytes = 0;    // of the JSON lines
  int64_t num_replaced = 0;  // places that were not UTF-8
};

// Where the loss mask of a token file of conversations lies: a token file with a vocabulary of two,
// one document for each of the other file and of the same length, 1 for a target.
std::string TargetMaskPath(const std::string& token_file);

// Writes the token file `output` and its mask, a document a conversation. Both depend on the inputs
// and their order only. INVALID_ARGUMENT names file and line of what is no conversation or does not
// fit the template, and inputs that are not JSONL; else as TokenizeCorpus.
absl::StatusOr<SftCorpusResult> TokenizeConversations(const CorpusOptions& options,
                                                      const Tokenizer& tokenizer,
                                                      const ChatTemplate& chat_template,
                                                      const std::string& output);

}  // namespace sluice::data
