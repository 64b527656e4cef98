// Matrix products of the tensor cores of Hopper: c = a b^T with both operands contiguous along K,
// in FP8 with scales or in BF16; dense, or for groups (experts). DeepSeek-V3 report, section 3.3.
//   M rows of the result, N columns, K contracted, E groups, P = K / 128 rounded up
// Never run on a GPU; executed by the software device of the tests.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/hopper_matmul_config.h"

namespace sluice::kernels::cuda {

enum class MatmulOutput : uint8_t {
  kBF16,
  kF32,
  kAddToF32,  // c += a b^T
};

// All pointers are of the device. a, b and scales start at a multiple of 16 bytes and have no gaps
// between rows.
struct HopperMatmulArgs {
  HopperMatmulShape shape;
  MatmulOutput output = MatmulOutput::kBF16;
  const void* a = nullptr;  // [M, K]
  const void* b = nullptr;  // [N, K]; kRows: [E, N, K]
  // FP8: value = code * scale.
  const float* a_scales = nullptr;  // [P, M rounded up to a multiple of 4]
  const float* b_scales = nullptr;  // kFp8Blocks: [E, N / 128 rounded up, P]
                                    // kFp8Columns: [P, N rounded up to a multiple of 4]; not kRows
  // kRows: [E + 1] i32 ascending from 0 to M, any values. kContracted: ascending multiples of
  // block_k from 0 to K; what pads a group's range holds codes of 0.
  const int32_t* offsets = nullptr;
  void* c = nullptr;     // [M, N]; kContracted: [E, M, N]
  int64_t c_stride = 0;  // elements from row to row
};

// A group without rows leaves no trace. A group with an empty range of K is zeroed, or with
// kAddToF32 left untouched. INVALID_ARGUMENT as ChooseHopperMatmul; FAILED_PRECONDITION if the
// driver cannot make tensor maps; INTERNAL if the launch fails.
absl::Status HopperMatmul(cudaStream_t stream, const HopperMatmulArgs& args,
                          const HopperMatmulConfig& config);

}  // namespace sluice::kernels::cuda
