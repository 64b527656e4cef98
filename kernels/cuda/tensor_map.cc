#include "kernels/cuda/tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime.h>

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
  const cuuint64_t extents[2] = {static_cast<cuuint64_t>(shape.columns),
                                 static_cast<cuuint64_t>(shape.rows)};
  const cuuint64_t row_bytes[1] = {
      static_cast<cuuint64_t>(shape.stride * ElementBytes(shape.type))};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(shape.box_columns),
                             static_cast<cuuint32_t>(shape.box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  CUtensorMap map;
  const CUresult result =
      (*encode)(&map, shape.type, 2, const_cast<void*>(shape.data), extents, row_bytes, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE,
                shape.is_swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor map: CUDA error ", static_cast<int>(result), " for [", shape.rows, ", ",
        shape.columns, "] with rows ", shape.stride, " apart in boxes of [", shape.box_rows, ", ", shape.box_columns, "]"));
  }
  return map;
}

}  // namespace sluice::kernels::cuda
