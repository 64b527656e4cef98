#include "trainer/loop/sample_token.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/core/philox.h"

namespace sluice::trainer {

int32_t SampleToken(std::span<const float> logits, const SamplingOptions& options,
                    int64_t position) {
  const auto most_likely = std::max_element(logits.begin(), logits.end());
  if (options.temperature <= 0) return static_cast<int32_t>(most_likely - logits.begin());
  std::vector<double> probability(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    probability[i] =
        std::exp((static_cast<double>(logits[i]) - *most_likely) / options.temperature);
  }
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return probability[a] > probability[b]; });
  const double total = std::accumulate(probability.begin(), probability.end(), 0.0);
  // The smallest set of likely tokens whose share reaches top_p.
  double kept = 0;
  size_t count = 0;
  while (count < order.size() && (count == 0 || kept < options.top_p * total))
    kept += probability[order[count++]];
  const auto words =
      Philox(PhiloxKey(options.seed, RandomPurpose::kSample), static_cast<uint64_t>(position));
  double left = UniformFromBits(words[0]) * kept;
  for (size_t i = 0; i < count; ++i) {
    left -= probability[order[i]];
    if (left < 0) return order[i];
  }
  return order[count - 1];
}

}  // namespace sluice::trainer
