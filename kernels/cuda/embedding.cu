#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"

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

constexpr int kColumnsPerThread = 4, kColumnsPerBlock = kThreads * kColumnsPerThread;
constexpr int kTokensPerThread = 4, kTokensAtOnce = kThreads * kTokensPerThread;
constexpr int kMasks = kTokensAtOnce / kWarp;

// Which of the tokens [first, first + 512) before `end` are `token`: bit by bit in masks[0 to 15].
// Returns whether any is; the same for all threads.
__device__ bool FindToken(const int32_t* tokens, int64_t first, int64_t end, int32_t token,
                          uint32_t* masks) {
  __syncthreads();  // the masks before have been read
#pragma unroll
  for (int i = 0; i < kTokensPerThread; ++i) {
    const int64_t t = first + i * kThreads + threadIdx.x;
    const bool is_token = t < end && tokens[t] == token;
    const uint32_t mask = __ballot_sync(kAllLanes, is_token);
    if (threadIdx.x % kWarp == 0) masks[(i * kThreads + threadIdx.x) / kWarp] = mask;
  }
  __syncthreads();
  uint32_t any = 0;
#pragma unroll
  for (int m = 0; m < kMasks; ++m) any |= masks[m];
  return any != 0;
}

// Block (token, 512 columns). The block of a token's first place adds all its rows in ascending
// order, so that nothing is sorted and no scratch memory is needed; the others leave.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    embedding_backward_kernel(Rows<const T> dy, const int32_t* tokens, Rows<float> dtable,
                              int64_t num_tokens, int64_t width) {
  __shared__ uint32_t masks[kMasks];
  const int64_t place = blockIdx.x;
  const int32_t token = tokens[place];
  for (int64_t first = 0; first < place; first += kTokensAtOnce) {
    if (FindToken(tokens, first, place, token, masks)) return;
  }
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kColumnsPerBlock + threadIdx.x;
  float sum[kColumnsPerThread];
#pragma unroll
  for (int i = 0; i < kColumnsPerThread; ++i) {
    const int64_t h = column + i * kThreads;
    sum[i] = h < width ? dtable[token][h] : 0.0f;
  }
  for (int64_t first = place; first < num_tokens; first += kTokensAtOnce) {
    if (!FindToken(tokens, first, num_tokens, token, masks)) continue;
    for (int m = 0; m < kMasks; ++m) {
      for (uint32_t left = masks[m]; left != 0; left &= left - 1) {
        const T* row = dy[first + m * kWarp + __ffs(static_cast<int>(left)) - 1];
#pragma unroll
        for (int i = 0; i < kColumnsPerThread; ++i) {
          const int64_t h = column + i * kThreads;
          if (h < width) sum[i] += ToFloat(row[h]);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kColumnsPerThread; ++i) {
    const int64_t h = column + i * kThreads;
    if (h < width) dtable[token][h] = sum[i];
  }
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
    Launch(stream,
           {.blocks = args.dy.extent(0),
            .threads = kThreads,
            .shared_bytes = 0,
            .blocks_y = CeilDiv(width, kColumnsPerBlock)},
           embedding_backward_kernel<T>, RowsOf<T>(args.dy), args.tokens.data<int32_t>(),
           MutableRowsOf<float>(args.dtable), args.dy.extent(0), width);
  });
}

}  // namespace sluice::kernels::cuda
