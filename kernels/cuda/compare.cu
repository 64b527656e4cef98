// Samples for reports. (What else reports need is the host's, kernels/ops/host_operands.h.)
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 128;

// T has an element's size. A block a row of y, which are all.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    sample_kernel(Rows<const T> x, Rows<T> y, int64_t x_rows, int64_t x_width, int64_t y_width) {
  const int64_t row = blockIdx.x;
  const T* from = x[row * x_rows / gridDim.x];
  for (int64_t j = threadIdx.x; j < y_width; j += kThreads) y[row][j] = from[j * x_width / y_width];
}

template <typename T>
void SampleOf(Stream& stream, const SampleArgs& args) {
  Launch(stream, {.blocks = args.y.extent(0), .threads = kThreads}, sample_kernel<T>,
         RowsOf<T>(args.x), MutableRowsOf<T>(args.y), args.x.extent(0), args.x.extent(1),
         args.y.extent(1));
}

}  // namespace

void Sample(Stream& stream, const SampleArgs& args) {
  switch (SizeOf(args.x.dtype())) {
    case 1:
      return SampleOf<uint8_t>(stream, args);
    case 2:
      return SampleOf<uint16_t>(stream, args);
    default:
      CHECK_EQ(SizeOf(args.x.dtype()), size_t{4});
      return SampleOf<uint32_t>(stream, args);
  }
}

}  // namespace sluice::kernels::cuda
