// The matrix products that a warp has under way (wgmma, PTX ISA 9.0, section 9.7.15): computed at
// some moment between issue and wait; until then their registers hold nonsense.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <vector>

namespace sluice::cuda_double {

struct Instruction;

struct Product {
  const Instruction* instruction = nullptr;
  int pc = 0;
  uint64_t a = 0, b = 0;  // descriptors
  bool adds = false;      // to the registers; else it replaces them
  bool transposes_a = false, transposes_b = false;
};

struct ProductGroup {
  std::vector<Product> products;
  bool is_done = false;
};

struct ProductQueue {
  std::vector<Product> open;        // not committed
  std::deque<ProductGroup> groups;  // oldest first, until waited for
  uint32_t num_committed = 0;
  std::map<int, std::vector<float>> sums;  // by first register row: [register][lane]

  bool is_empty() const { return open.empty() && groups.empty(); }
};

}  // namespace sluice::cuda_double
