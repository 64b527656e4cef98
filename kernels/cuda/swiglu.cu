#include "kernels/core/exp.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 128;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    swiglu_kernel(Rows<const T> gate_up, Rows<T> y, int64_t width) {
  const int64_t row = blockIdx.x;
  const T* gate = gate_up[row];
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    y[row][i] = FromFloat<T>(Silu(ToFloat(gate[i])) * ToFloat(gate[width + i]));
  }
}

// dgate_up may be gate_up.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(Rows<const T> dy, Rows<const T> gate_up, Rows<T> dgate_up,
                           int64_t width) {
  const int64_t row = blockIdx.x;
  const T* gate = gate_up[row];
  T* dgate = dgate_up[row];
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    const float g = ToFloat(gate[i]), up = ToFloat(gate[width + i]), d = ToFloat(dy[row][i]);
    const float sigmoid = Sigmoid(g);
    dgate[i] = FromFloat<T>(d * up * SiluSlope(g, sigmoid));
    dgate[width + i] = FromFloat<T>(d * (g * sigmoid));
  }
}

}  // namespace

void Swiglu(Stream& stream, const SwigluArgs& args) {
  ForFloatType(args.y.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Launch(stream, {.blocks = args.y.extent(0), .threads = kThreads}, swiglu_kernel<T>,
           RowsOf<T>(args.gate_up), MutableRowsOf<T>(args.y), args.y.extent(1));
  });
}

void SwigluBackward(Stream& stream, const SwigluBackwardArgs& args) {
  ForFloatType(args.dy.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Launch(stream, {.blocks = args.dy.extent(0), .threads = kThreads}, swiglu_backward_kernel<T>,
           RowsOf<T>(args.dy), RowsOf<T>(args.gate_up), MutableRowsOf<T>(args.dgate_up),
           args.dy.extent(1));
  });
}

}  // namespace sluice::kernels::cuda
