// Matrix products of the tensor cores of Hopper: c = a b^T with both operands contiguous along K,
// in FP8 with scales or in BF16; dense, or for groups (experts). DeepSeek-V3 report, section 3.3.
//   M rows of the result, N columns, K contracted, E groups, P = K / 128 rounded up
// BF16 also with M and N contiguous, which is how activations lie for a weight's gradient.
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

// All pointers are of the device. a and b start at a multiple of 16 bytes, and so do their rows.
struct HopperMatmulArgs {
  HopperMatmulShape shape;
  MatmulOutput output = MatmulOutput::kBF16;
  const void* a = nullptr;             // [M, K]; kBF16Columns: [K, M]
  const void* b = nullptr;             // [N, K]; kRows: [E, N, K]; kBF16Columns: [K, N]
  int64_t a_stride = 0, b_stride = 0;  // elements from row to row; 0: no gap
  int64_t b_group_rows = 0;            // kRows: rows from b[e] to b[e + 1]; 0: N
  // FP8: value = code * scale.
  // kFp8Blocks: that of row m, step p of K at a_scales[m * a_scale_row + p * a_scale_step].
  // kFp8Columns: [P, M], M a multiple of 4, at a multiple of 16 bytes.
  const float* a_scales = nullptr;
  int64_t a_scale_row = 0, a_scale_step = 0;
  const float* b_scales = nullptr;  // kFp8Blocks: [E, N / 128 rounded up, P], each part of K
                                    // rounded up on its own; kFp8Columns: as a's, [P, N], not kRows
  int64_t b_group_scales = 0;       // kRows: scales from b[e]'s to b[e + 1]'s; 0: no gap
  // [E + 1] i32, ascending, any values. kRows: from 0 to M. kContracted: along K; of kFp8Columns
  // the groups' rows without padding, while a, b and their scales lie as QuantizedColumns of
  // kernels/ops/block_quantize.h do, transposed, and P = K / 128 counts that padding.
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
