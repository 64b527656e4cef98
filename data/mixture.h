// Which source a sample comes from, as a function of the sample's number.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace sluice::data {

// Samples are dealt in blocks of kBlock. Each block holds the same number from each source: its
// share of the weights, rounded to whole samples by largest remainder and at least 1. So the mix is
// within 1 / kBlock of the weights, in every block, and no source is ever late. The order in a
// block is random.
class Mixture {  // any thread
 public:
  static constexpr int64_t kBlock = 4096;
  // Weights > 0, at most 1024 of them (CHECKed); they need not sum to 1.
  Mixture(std::span<const double> weights, uint64_t seed);

  struct Place {
    int source;
    int64_t index;  // samples of that source before this block, plus the place among the block's
  };
  // Over any whole number of blocks from 0, the places of a source are 0, 1, 2, ... each once.
  Place At(int64_t sample) const;
  int64_t PerBlock(int source) const { return begin_[source + 1] - begin_[source]; }

 private:
  uint64_t key_;
  std::vector<int64_t> begin_;  // [source]: first of its slots in a block; one more at the end
};

}  // namespace sluice::data
