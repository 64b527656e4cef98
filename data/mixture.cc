#include "data/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "data/permutation.h"
#include "kernels/core/check.h"
#include "kernels/core/philox.h"

namespace sluice::data {

Mixture::Mixture(std::span<const double> weights, uint64_t seed)
    : key_(PhiloxKey(seed, RandomPurpose::kMixture)) {
  const size_t n = weights.size();
  CHECK(n >= 1 && n <= 1024) << n << " sources";
  double sum = 0;
  for (const double weight : weights) {
    CHECK(weight > 0 && std::isfinite(weight)) << "weight " << weight;
    sum += weight;
  }
  // Everybody gets 1, the rest goes by weight.
  std::vector<int64_t> slots(n);
  std::vector<double> missing(n);  // share minus slots so far
  int64_t left = kBlock;
  for (size_t i = 0; i < n; ++i) {
    const double share = static_cast<double>(kBlock) * weights[i] / sum;
    slots[i] = std::max<int64_t>(1, static_cast<int64_t>(share));
    missing[i] = share - static_cast<double>(slots[i]);
    left -= slots[i];
  }
  while (left != 0) {  // left < 0: sources that were lifted to 1 are paid for by the others
    size_t best = n;
    for (size_t i = 0; i < n; ++i) {
      if (left < 0 && slots[i] == 1) continue;
      const bool better =
          best == n || (left > 0 ? missing[i] > missing[best] : missing[i] < missing[best]);
      if (better) best = i;
    }
    const int64_t step = left > 0 ? 1 : -1;
    slots[best] += step;
    missing[best] -= static_cast<double>(step);
    left -= step;
  }
  begin_.push_back(0);
  for (const int64_t count : slots) begin_.push_back(begin_.back() + count);
}

Mixture::Place Mixture::At(int64_t sample) const {
  CHECK_GE(sample, 0);
  const int64_t block = sample / kBlock;
  const auto words = Philox(key_, static_cast<uint64_t>(block));
  const Permutation shuffle(kBlock, uint64_t{words[1]} << 32 | words[0]);
  const int64_t slot = shuffle(sample % kBlock);
  const auto above = std::upper_bound(begin_.begin(), begin_.end(), slot);
  const auto source = static_cast<int>(above - begin_.begin()) - 1;
  return {source, block * PerBlock(source) + slot - begin_[source]};
}

}  // namespace sluice::data
