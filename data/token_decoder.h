// From tokens back to text, as the decoder of tokenizer.json says.
#pragma once

#include <string>
#include <vector>

#include "data/tokenizer_json.h"

namespace sluice::data {

// Immutable; any thread.
class TokenDecoder {
 public:
  explicit TokenDecoder(std::vector<DecoderStep> steps) : steps_(std::move(steps)) {}

  // The decoder is ByteLevel and nothing else: text is the tokens' bytes in a row.
  bool only_bytes() const;
  // `tokens` as the vocabulary has them. The result is valid UTF-8.
  std::string Decode(std::vector<std::string> tokens) const;

 private:
  std::vector<DecoderStep> steps_;
};

}  // namespace sluice::data
