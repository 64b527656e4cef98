#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/swiglu.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// A block a row, a thread a chunk at a time.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    swiglu_kernel(Rows<const T> gate_up, Rows<T> y, int64_t width, bool is_cut) {
  constexpr int kElements = Chunk<T>::kElements;
  const int64_t row = blockIdx.x;
  for (int64_t i = threadIdx.x * kElements; i < width; i += kThreads * kElements) {
    Chunk<T> in[2];
    LoadChunks(in, is_cut, [&](int part) {
      return Part<const T>{gate_up[row] + part * width + i, width - i};
    });
    StoreChunk(SwigluOf(in[0], in[1]), y[row] + i, width - i, is_cut);
  }
}

// dgate_up may be gate_up.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(Rows<const T> dy, Rows<const T> gate_up, Rows<T> dgate_up, int64_t width,
                           bool is_cut) {
  constexpr int kElements = Chunk<T>::kElements;
  const int64_t row = blockIdx.x;
  for (int64_t i = threadIdx.x * kElements; i < width; i += kThreads * kElements) {
    Chunk<T> in[3];  // gate, up, dy
    LoadChunks(in, is_cut, [&](int part) {
      const T* from = part == 2 ? dy[row] : gate_up[row] + part * width;
      return Part<const T>{from + i, width - i};
    });
    TakeSwigluGradient(in[2], in[0], in[1]);
    StoreChunk(in[0], dgate_up[row] + i, width - i, is_cut);
    StoreChunk(in[1], dgate_up[row] + width + i, width - i, is_cut);
  }
}

}  // namespace

void Swiglu(Stream& stream, const SwigluArgs& args) {
  ForFloatType(args.y.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Launch(stream, {.blocks = args.y.extent(0), .threads = kThreads}, swiglu_kernel<T>,
           RowsOf<T>(args.gate_up), MutableRowsOf<T>(args.y), args.y.extent(1),
           IsCut({args.gate_up, args.y}));
  });
}

void SwigluBackward(Stream& stream, const SwigluBackwardArgs& args) {
  ForFloatType(args.dy.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Launch(stream, {.blocks = args.dy.extent(0), .threads = kThreads}, swiglu_backward_kernel<T>,
           RowsOf<T>(args.dy), RowsOf<T>(args.gate_up), MutableRowsOf<T>(args.dgate_up),
           args.dy.extent(1), IsCut({args.dy, args.gate_up, args.dgate_up}));
  });
}

}  // namespace sluice::kernels::cuda
