#include "data/permutation.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/philox.h"

namespace sluice::data {
namespace {
// Even, so that the halves have their widths again at the end. Luby and Rackoff need four for a
// random round function; twice that, because the halves of small ranges have few bits.
constexpr int kRounds = 8;
}  // namespace

Permutation::Permutation(int64_t size, uint64_t key) : size_(size), key_(key) {
  CHECK_GE(size, 1);
  const int bits = std::max<int>(2, std::bit_width(static_cast<uint64_t>(size - 1)));
  low_bits_ = bits / 2;
  high_bits_ = bits - low_bits_;
}

int64_t Permutation::operator()(int64_t index) const {
  CHECK(index >= 0 && index < size_) << index << " of " << size_;
  auto x = static_cast<uint64_t>(index);
  do {
    int low_bits = low_bits_, high_bits = high_bits_;
    for (int round = 0; round < kRounds; ++round) {
      const uint64_t low = x & ((uint64_t{1} << low_bits) - 1);
      const uint64_t high = x >> low_bits;
      const auto words = Philox(key_, low, static_cast<uint64_t>(round));
      const uint64_t random = uint64_t{words[1]} << 32 | words[0];
      const uint64_t mixed = (high ^ random) & ((uint64_t{1} << high_bits) - 1);
      x = low << high_bits | mixed;  // the halves change places
      std::swap(low_bits, high_bits);
    }
  } while (x >= static_cast<uint64_t>(size_));
  return static_cast<int64_t>(x);
}

}  // namespace sluice::data
