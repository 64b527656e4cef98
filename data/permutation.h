// A shuffle as a function: the place of each index without a table.
#pragma once

#include <cstdint>

namespace sluice::data {

// A bijection of [0, size), chosen by `key`: a Feistel network on the smallest power of two that
// holds the range, walked along until it lands inside (Black and Rogaway, "Ciphers with Arbitrary
// Finite Domains", 2002, the cycle-walking cipher). The round function is Philox.
class Permutation {  // any thread
 public:
  Permutation(int64_t size, uint64_t key);  // size >= 1

  int64_t size() const { return size_; }
  int64_t operator()(int64_t index) const;  // CHECKs 0 <= index < size

 private:
  int64_t size_;
  uint64_t key_;
  int low_bits_, high_bits_;  // of the network's two halves; equal or high is one more
};

}  // namespace sluice::data
