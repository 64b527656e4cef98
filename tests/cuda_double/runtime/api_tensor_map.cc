// The driver's function that describes tensors for asynchronous copies, and how a program finds it.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <string>

#include "tests/cuda_double/exec/tensor_map.h"
#include "tests/cuda_double/runtime/runtime.h"

using sluice::cuda_double::Runtime;
using sluice::cuda_double::Swizzle;
using sluice::cuda_double::TensorMap;

namespace {

uint32_t ElementBytes(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
      return 1;
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      return 2;
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
      return 4;
    default:
      return 0;  // not modelled
  }
}

// The rules of the driver API's manual for cuTensorMapEncodeTiled; "" or which one is broken.
std::string Check(const TensorMap& map) {
  constexpr uint64_t kSwizzleBytes[] = {0, 32, 64, 128};
  const uint64_t inner = uint64_t{map.box[0]} * map.element_bytes;
  if (map.address % 16 != 0) return "the address is no multiple of 16";
  uint64_t inside = map.extents[0] * map.element_bytes;
  for (size_t i = 0; i + 1 < map.rank; ++i) {
    if (map.strides[i] % 16 != 0) return "a row's bytes are no multiple of 16";
    if (map.strides[i] < inside) return "rows overlap";
    if (i > 0 && map.strides[i] % map.strides[i - 1] != 0) {
      return "a stride is no multiple of the one before";
    }
    inside = map.strides[i] * map.extents[i + 1];
  }
  for (size_t i = 0; i < map.rank; ++i) {
    if (map.box[i] == 0 || map.box[i] > 256) return "a box's extent must be 1 to 256";
    if (map.extents[i] == 0 || map.extents[i] > 1ull << 32) return "an extent must be 1 to 2^32";
  }
  if (inner % 16 != 0) return "a box's row is no multiple of 16 bytes";
  if (map.swizzle != Swizzle::kNone && inner > kSwizzleBytes[static_cast<int>(map.swizzle)]) {
    return "a box's row is longer than the swizzle's pattern";
  }
  return "";
}

CUresult EncodeTiled(CUtensorMap* out, CUtensorMapDataType type, cuuint32_t rank, void* address,
                     const cuuint64_t* extents, const cuuint64_t* strides, const cuuint32_t* box,
                     const cuuint32_t* steps, CUtensorMapInterleave interleave,
                     CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                     CUtensorMapFloatOOBfill fill) {
  Runtime& runtime = Runtime::Get();
  const std::lock_guard<std::mutex> lock(runtime.mutex());
  TensorMap map;
  map.magic = TensorMap::kMagic;
  map.address = reinterpret_cast<uint64_t>(address);
  map.element_bytes = ElementBytes(type);
  const bool is_modelled =
      (rank == 2 || rank == 3) && map.element_bytes != 0 &&
      interleave == CU_TENSOR_MAP_INTERLEAVE_NONE && fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE &&
      std::all_of(steps, steps + rank, [](cuuint32_t step) { return step == 1; }) &&
      swizzle <= CU_TENSOR_MAP_SWIZZLE_128B;
  std::string why = is_modelled ? "" : "this kind of map is not modelled";
  if (why.empty()) {
    map.rank = rank;
    for (size_t i = 0; i < 3 && i < rank; ++i) {
      map.extents[i] = extents[i];
      map.box[i] = box[i];
      if (i > 0) map.strides[i - 1] = strides[i - 1];
    }
    map.swizzle = static_cast<Swizzle>(swizzle);
    why = Check(map);
  }
  if (!why.empty()) {
    runtime.Break(cudaErrorInvalidValue, "cuTensorMapEncodeTiled: " + why);
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::memset(out, 0, sizeof *out);
  std::memcpy(out, &map, sizeof map);
  return CUDA_SUCCESS;
}

}  // namespace

extern "C" cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned,
                                                        unsigned long long,
                                                        cudaDriverEntryPointQueryResult* result) {
  const bool is_known = std::strcmp(name, "cuTensorMapEncodeTiled") == 0;
  *function = is_known ? reinterpret_cast<void*>(&EncodeTiled) : nullptr;
  *result = is_known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
