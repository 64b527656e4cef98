// A copy of a box of a tensor from global to shared memory (cp.async.bulk.tensor, PTX ISA 9.0,
// section 9.7.9.27.1.2) between its issue and the moment it reports to its mbarrier.
#pragma once

#include <cstdint>

#include "tests/cuda_double/exec/tensor_map.h"

namespace sluice::cuda_double {

struct BulkCopy {
  TensorMap map;
  int x = 0, y = 0;               // first column and row; may lie outside
  uint64_t to = 0, mbarrier = 0;  // offsets in shared memory
  int agent = 0;
  uint32_t number = 0;
  int warp = 0, lane = 0, pc = 0;  // who issued it

  uint64_t RowBytes() const { return uint64_t{map.box[0]} * map.element_bytes; }
  uint64_t Bytes() const { return RowBytes() * map.box[1]; }
};

}  // namespace sluice::cuda_double
