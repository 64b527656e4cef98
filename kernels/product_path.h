// Which kernels a GPU computes the products of a linear layer by: what the ops of kernels/cuda
// decide, known without a GPU.   T rows, I in, O out, E experts
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "kernels/core/dtype.h"

namespace sluice::kernels {

enum class MatmulKernels : uint8_t { kAuto, kMmaSync, kCublasLt };
enum class LinearProduct : uint8_t { kForward, kInputGradient, kWeightGradient };

struct LinearOnGpu {
  DType dtype = DType::kBF16;  // f32 | bf16 | e4m3: of the operands
  int64_t rows = 0, in = 0, out = 0;
  bool is_grouped = false;  // E experts with their own rows
  int64_t experts = 1;
  bool is_f32 = false;      // bf16: the forward's result is f32, as logits are
  int64_t equal_parts = 1;  // e4m3: QuantizedWeight's, 1 where row_tiles is null
};

// "wgmma 128x256", "mma.sync", "cuBLASLt" or "FFMA", for tensors without gaps. `rows` decides about
// the tile alone.
std::string ProductPath(const LinearOnGpu& linear, LinearProduct product, MatmulKernels kernels,
                        int num_multiprocessors = 132);

// OK for what cuBLASLt can do, and for what it is never asked: FP32, groups, and in FP8 gradients
// of weights. UNIMPLEMENTED: its sentence.
absl::Status CheckByCublasLt(const LinearOnGpu& linear, LinearProduct product);

}  // namespace sluice::kernels
