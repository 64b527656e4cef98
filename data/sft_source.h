// Sequences of whole conversations for supervised fine-tuning, with a loss mask.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "data/batch_source.h"

namespace sluice::data {

struct SftSourceOptions {
  std::vector<std::string> paths;  // token files by TokenizeConversations, their masks beside them
  int sequence_length = 0;
  uint64_t seed = 0;
  bool shuffle = true;         // the order of the sequences, anew for each epoch
  bool repeat = true;          // without: samples behind the first epoch are padding only
  std::string tokenizer_hash;  // the files must have been made with this one; empty: any
};

struct SftPacking {
  int64_t conversations = 0;  // an epoch has each of them once
  int64_t sequences = 0;      // of an epoch
  int64_t tokens = 0;         // of conversations, without padding
  int64_t num_cut = 0;        // conversations longer than a sequence, of which the end is left out
  int64_t num_useless = 0;    // of those: nothing was left to learn, so they are left out
};

// As BatchSource, and: a sample holds whole conversations, each a document, then padding (EOS, or 0
// where there is none), which is a document, too. Which conversations share a sample is the same
// in all epochs: they are packed once, longest first, each into the fullest sample that has room
// (best-fit decreasing; Ding et al., "Fewer Truncations Improve Language Modeling", 2024). Read
// with document starts; ReadTargetMask says which tokens are learned, NumTargets is L.
class SftSource : public BatchSource {
 public:
  // INVALID_ARGUMENT: an option out of range, files of different tokenizers, a file without mask,
  // nothing to learn in any conversation. Else what TokenFile::Open returns.
  static absl::StatusOr<std::unique_ptr<SftSource>> Create(const SftSourceOptions& options);
  virtual const SftPacking& packing() const = 0;
};

}  // namespace sluice::data
