// Launching kernels, and choosing one by the tensors' element type.
#pragma once

#include <cstdint>

#include "kernels/core/check.h"
#include "kernels/cuda/cuda_stream.h"
#include "kernels/cuda/rounding.h"

namespace sluice::kernels::cuda {

inline constexpr int kWarp = 32;

struct LaunchShape {
  int64_t blocks = 0;  // nothing is launched for 0
  dim3 threads = 1;
  size_t shared_bytes = 0;
  int64_t blocks_y = 1;
};

template <typename... Parameters, typename... Arguments>
void Launch(Stream& stream, const LaunchShape& shape, void (*kernel)(Parameters...),
            Arguments&&... arguments) {
  if (shape.blocks == 0 || shape.blocks_y == 0) return;
  CHECK_LE(shape.blocks, int64_t{0x7fffffff});
  CHECK_LE(shape.blocks_y, int64_t{0xffff});
  CudaStream& cuda = CudaStream::From(stream);
  const dim3 grid(static_cast<unsigned>(shape.blocks), static_cast<unsigned>(shape.blocks_y));
  kernel<<<grid, shape.threads, shape.shared_bytes, cuda.handle()>>>(arguments...);
  cuda.Note(cudaGetLastError(), "launching a kernel");
}

// A tag that carries a type into a generic lambda.
template <typename T>
struct TypeTag {
  using Type = T;
};

// Calls run(TypeTag<float>) or run(TypeTag<bfloat16>).
template <typename Run>
void ForFloatType(DType dtype, const Run& run) {
  if (dtype == DType::kBF16) {
    run(TypeTag<bfloat16>());
  } else {
    CHECK(dtype == DType::kF32) << NameOf(dtype).data();
    run(TypeTag<float>());
  }
}

}  // namespace sluice::kernels::cuda
