// From text to token files and vocabularies: what `sluice tokenize` and presets that bring their
// own text need.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "data/bpe_train.h"
#include "data/tokenizer.h"

namespace sluice::data {

struct CorpusProgress {
  int64_t bytes_done = 0, bytes_total = 0;  // of the files as stored
  int64_t documents = 0, text_bytes = 0, tokens = 0;
  double seconds = 0;
};

struct CorpusOptions {
  std::vector<std::string> inputs;  // files and folders, see FindTextFiles
  int num_threads = 1;
  bool strict = false;  // refuse bytes that are not UTF-8 instead of reading them as U+FFFD
  // Of TokenizeCorpus: which tokens spelled out in a text become these.
  AddedTokens added_tokens = AddedTokens::kAll;
  // Called by the calling thread now and then, and once at the end.
  std::function<void(const CorpusProgress&)> progress;
};

struct CorpusResult {
  int64_t documents = 0;        // with text
  int64_t empty_documents = 0;  // passed over
  int64_t text_bytes = 0;       // UTF-8, decompressed
  int64_t tokens = 0;           // with EOS
  int64_t num_replaced = 0;     // places that were not UTF-8
  double seconds = 0;
  int64_t vocab_size = 0;  // of TrainVocabulary: what came out, which a short text makes smaller
};

// Writes the token file `output`: each document's tokens and the tokenizer's EOS, if it has one.
// The file depends on the inputs and their order only. On failure no file `output` is left behind
// (an older one stays). INVALID_ARGUMENT: the inputs hold no text, or as FindTextFiles and
// ExtractText say; DATA_LOSS: damaged compressed data; RESOURCE_EXHAUSTED: the disk is full.
absl::StatusOr<CorpusResult> TokenizeCorpus(const CorpusOptions& options,
                                            const Tokenizer& tokenizer, const std::string& output);

// Trains a vocabulary on the inputs and writes it to `output`, a tokenizer.json. train.num_threads
// is not used. Errors as above and as BpeTrainer's.
absl::StatusOr<CorpusResult> TrainVocabulary(const CorpusOptions& options,
                                             const BpeTrainOptions& train,
                                             const std::string& output);

}  // namespace sluice::data
