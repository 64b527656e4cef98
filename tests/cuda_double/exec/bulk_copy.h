// A copy of a box of a tensor from global to shared memory (cp.async.bulk.tensor, PTX ISA 9.0,
// section 9.7.9.27.1.2) between its issue and the moment it reports to its mbarrier.
#pragma once

#include <array>
#include <cstdint>

#include "tests/cuda_double/exec/tensor_map.h"

namespace sluice::cuda_double {

struct BulkCopy {
  TensorMap map;
  std::array<int, 3> first = {};  // of the box; may lie outside
  uint64_t to = 0, mbarrier = 0;  // offsets in shared memory
  int agent = 0;
  uint32_t number = 0;
  int warp = 0, lane = 0, pc = 0;  // who issued it

  uint64_t RowBytes() const { return uint64_t{map.box[0]} * map.element_bytes; }
  uint64_t Bytes() const { return RowBytes() * map.box[1] * map.box[2]; }
};

}  // namespace sluice::cuda_double
