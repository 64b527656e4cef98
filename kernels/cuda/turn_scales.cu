#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/turn_scales.h"

namespace sluice::kernels::cuda {
namespace {

constexpr int kTurnThreads = 256;

// A thread a scale, in the order of the result.
__global__ void __launch_bounds__(kTurnThreads) turn_scales_kernel(const TurnScalesArgs args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kTurnThreads + threadIdx.x;
  if (i >= args.rows * args.columns) return;
  const int64_t row = i % args.rows, column = i / args.rows;
  args.to[i] = args.from[row * args.from_row + column * args.from_column];
}

}  // namespace

void TurnScales(Stream& stream, const TurnScalesArgs& args) {
  Launch(stream,
         {.blocks = CeilDiv(args.rows * args.columns, kTurnThreads),
          .threads = kTurnThreads,
          .shared_bytes = 0},
         turn_scales_kernel, args);
}

}  // namespace sluice::kernels::cuda
