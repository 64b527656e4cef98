#include "kernels/cuda/tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sluice::kernels::cuda {
namespace {

absl::StatusOr<PFN_cuTensorMapEncodeTiled_v12000> Encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                             12000, cudaEnableDefault, &result);
  if (error != cudaSuccess || result != cudaDriverEntryPointSuccess || function == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("CUDA driver: found no cuTensorMapEncodeTiled (", cudaGetErrorString(error),
                     "), wanted a driver of CUDA 12.0 or newer"));
  }
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
}

int64_t ElementBytes(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
      return 1;
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      return 2;
    default:
      return 4;
  }
}

}  // namespace

absl::StatusOr<CUtensorMap> MakeTensorMap(const TensorMapShape& shape) {
  const absl::StatusOr<PFN_cuTensorMapEncodeTiled_v12000> encode = Encoder();
  if (!encode.ok()) return encode.status();
  const int64_t parts = std::max<int64_t>(shape.parts, 1), width = shape.columns / parts;
  const int64_t row_bytes = shape.stride * ElementBytes(shape.type);
  // Where there is but one part, its stride is never used; a row's satisfies the driver.
  const int64_t part_bytes = parts == 1 ? row_bytes : width * ElementBytes(shape.type);
  const auto size = [](int64_t x) { return static_cast<cuuint64_t>(x); };
  const auto side = [](int x) { return static_cast<cuuint32_t>(x); };
  const bool is_flat = shape.parts == 0;
  const cuuint64_t extents[3] = {size(width), size(is_flat ? shape.rows : parts), size(shape.rows)};
  const cuuint64_t strides[2] = {size(is_flat ? row_bytes : part_bytes), size(row_bytes)};
  const cuuint32_t box[3] = {side(shape.box_columns), side(is_flat ? shape.box_rows : 1),
                             side(shape.box_rows)};
  const cuuint32_t steps[3] = {1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      (*encode)(&map, shape.type, is_flat ? 2 : 3, const_cast<void*>(shape.data), extents, strides,
                box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                shape.is_swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor map: CUDA error ", static_cast<int>(result), " for [", shape.rows,
                     ", ", shape.columns, "] in ", parts, " parts with rows ", shape.stride,
                     " apart in boxes of [", shape.box_rows, ", ", shape.box_columns, "]"));
  }
  return map;
}

}  // namespace sluice::kernels::cuda
