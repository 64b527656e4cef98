#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 128;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    embedding_kernel(const int32_t* tokens, Rows<const T> table, Rows<T> y, int64_t width) {
  const int64_t row = blockIdx.x;
  const T* from = table[tokens[row]];
  for (int64_t h = threadIdx.x; h < width; h += kThreads) y[row][h] = from[h];
}

// A thread a column, over all tokens in order: a token that comes again is added in ascending
// order, with no sorting and no scratch memory.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    embedding_backward_kernel(Rows<const T> dy, const int32_t* tokens, Rows<float> dtable,
                              int64_t num_tokens, int64_t width) {
  const int64_t h = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (h >= width) return;
  for (int64_t t = 0; t < num_tokens; ++t) dtable[tokens[t]][h] += ToFloat(dy[t][h]);
}

}  // namespace

void Embedding(Stream& stream, const EmbeddingArgs& args) {
  ForFloatType(args.y.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Launch(stream, {.blocks = args.y.extent(0), .threads = kThreads}, embedding_kernel<T>,
           args.tokens.data<int32_t>(), RowsOf<T>(args.table), MutableRowsOf<T>(args.y),
           args.y.extent(1));
  });
}

void EmbeddingBackward(Stream& stream, const EmbeddingBackwardArgs& args) {
  ForFloatType(args.dy.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const int64_t width = args.dy.extent(1);
    Launch(stream, {.blocks = CeilDiv(width, kThreads), .threads = kThreads},
           embedding_backward_kernel<T>, RowsOf<T>(args.dy), args.tokens.data<int32_t>(),
           MutableRowsOf<float>(args.dtable), args.dy.extent(0), width);
  });
}

}  // namespace sluice::kernels::cuda
