// Descriptions of matrices for TMA.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "absl/status/statusor.h"

namespace sluice::kernels::cuda {

struct TensorMapShape {
  const void* data = nullptr;  // at a multiple of 16 bytes
  CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  int64_t rows = 0, columns = 0;  // row-major
  // 0: a map of two dimensions. Else the columns are so many equal parts side by side, the second
  // of three dimensions; a box lies in one of them, and past its end reads zeros.
  int64_t parts = 0;
  int64_t stride = 0;  // elements from row to row: a multiple of 16 bytes; parts > 1: of a part
  int box_rows = 0, box_columns = 0;
  bool is_swizzled = false;  // a box's row is then 128 bytes
};

// The driver is asked for its function by name, so that nothing links libcuda. FAILED_PRECONDITION
// if it has none; INVALID_ARGUMENT names the shape that it refuses.
absl::StatusOr<CUtensorMap> MakeTensorMap(const TensorMapShape& shape);

}  // namespace sluice::kernels::cuda
