// Fill in the middle: some documents are rearranged so that a model learns to complete a gap
// (Bavarian et al., "Efficient Training of Language Models to Fill in the Middle", 2022; the PSM
// form of DeepSeek-V3's report, section 4.1).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "data/tokenizer.h"

namespace sluice::data {

// prefix P suffix S middle M, where P M S is the document.
struct FimTokens {
  int32_t prefix = -1, suffix = -1, middle = -1;
};

// By the names that DeepSeek, Qwen and StarCoder use. NOT_FOUND: the vocabulary has none of them.
absl::StatusOr<FimTokens> FindFimTokens(const Tokenizer& tokenizer);

struct FimOptions {
  double rate = 0;  // share of the documents
  FimTokens tokens;
  int32_t eos_id = -1;  // stays at its document's end
  uint64_t key = 0;
};

// Rearranges some of the documents of one sequence; `starts` are the positions where documents
// begin, 0 first. Each rearranged document grows by three tokens: what then no longer fits falls
// off the end of the sequence. A function of the arguments; `sample` makes the choice differ.
void ApplyFim(const FimOptions& options, int64_t sample, std::span<int32_t> tokens,
              std::vector<int32_t>* starts);

}  // namespace sluice::data
