// Choosing the next token.
#pragma once

#include <cstdint>
#include <span>

namespace sluice::trainer {

struct SamplingOptions {
  double temperature = 0.8;  // 0: the most likely token
  double top_p = 0.95;       // nucleus sampling (Holtzman et al., arXiv 1904.09751); 1: all tokens
  uint64_t seed = 1;
};

// A pure function of logits, options and position: Philox(seed, position). Ties go to the lower
// token.
int32_t SampleToken(std::span<const float> logits, const SamplingOptions& options,
                    int64_t position);

}  // namespace sluice::trainer
