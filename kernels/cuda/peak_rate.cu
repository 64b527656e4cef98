// Multiply-adds on registers only: FP32 FFMA, or BF16 by mma.sync (on Hopper about two thirds of
// what wgmma reaches).
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/ptx.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 256, kBlocksPerProcessor = 2;
constexpr int kChains = 8;  // independent sums a thread: more than the latency of either kind

// `never` is null: the sums are stored under a condition that does not happen, or the compiler
// would drop them.
__global__ void __launch_bounds__(kThreads)
    peak_f32_kernel(int64_t iterations, float factor, float* never) {
  float sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = static_cast<float>(threadIdx.x + i);
  for (int64_t n = 0; n < iterations; ++n) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) sums[i] = __fmaf_rn(sums[i], factor, 1.0f);
  }
  float total = 0;
  for (int i = 0; i < kChains; ++i) total += sums[i];
  if (total == -1.0f) *never = total;
}

__global__ void __launch_bounds__(kThreads) peak_bf16_kernel(int64_t iterations, float* never) {
  float sums[kChains][4] = {};
  const uint32_t a[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};  // ones
  const uint32_t b[2] = {0x3f803f80u, 0x3f803f80u};
  for (int64_t n = 0; n < iterations; ++n) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) MultiplyAccumulate(sums[i], a, b);
  }
  float total = 0;
  for (int i = 0; i < kChains; ++i) total += sums[i][0];
  if (total == -1.0f) *never = total;
}

}  // namespace

double RunPeakLoop(Stream& stream, DType dtype, int64_t iterations) {
  CudaStream& cuda = CudaStream::From(stream);
  int processors = 1;
  cuda.Note(
      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, stream.device().index),
      "attributes");
  const LaunchShape shape = {.blocks = kBlocksPerProcessor * int64_t{processors},
                             .threads = kThreads};
  float* const never = nullptr;
  const double chains = static_cast<double>(shape.blocks * iterations * kChains);
  if (dtype == DType::kF32) {
    Launch(stream, shape, peak_f32_kernel, iterations, 0.5f, never);
    return chains * kThreads * 2;
  }
  Launch(stream, shape, peak_bf16_kernel, iterations, never);
  return chains * (kThreads / kWarp) * (16 * 8 * 16 * 2);
}

}  // namespace sluice::kernels::cuda
