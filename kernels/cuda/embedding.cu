#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 128;

constexpr int kTokensPerThread = 16, kTokensAtOnce = kThreads * kTokensPerThread;
constexpr int kMasks = kTokensAtOnce / kWarp;

// Which of the tokens [first, first + 2048) before `end` are `token`: bit by bit in masks[0 to 63].
// Returns whether any is; the same for all threads.
__device__ bool FindToken(const int32_t* tokens, int64_t first, int64_t end, int32_t token,
                          uint32_t* masks) {
  const int lane = threadIdx.x % kWarp;
  int32_t some[kTokensPerThread];
#pragma unroll
  for (int i = 0; i < kTokensPerThread; ++i) {
    const int64_t t = first + i * kThreads + threadIdx.x;
    some[i] = t < end ? tokens[t] : -1;
  }
  __syncthreads();  // the masks before have been read
#pragma unroll
  for (int i = 0; i < kTokensPerThread; ++i) {
    const uint32_t mask = __ballot_sync(kAllLanes, some[i] == token);
    if (lane == 0) masks[(i * kThreads + threadIdx.x) / kWarp] = mask;
  }
  __syncthreads();
  uint32_t any = 0;
#pragma unroll
  for (int m = lane; m < kMasks; m += kWarp) any |= masks[m];
  return __any_sync(kAllLanes, any != 0);
}

// f(place of a token that was found), in ascending order.
template <typename F>
__device__ void ForEachFound(const uint32_t* masks, int64_t first, const F& f) {
  for (int m = 0; m < kMasks; m += kWarp) {
    uint32_t words = __ballot_sync(kAllLanes, masks[m + threadIdx.x % kWarp] != 0);
    for (; words != 0; words &= words - 1) {
      const int word = m + __ffs(static_cast<int>(words)) - 1;
      for (uint32_t left = masks[word]; left != 0; left &= left - 1) {
        f(first + word * kWarp + __ffs(static_cast<int>(left)) - 1);
      }
    }
  }
}

constexpr int kColumns = 4, kPieces = 2;  // of a thread: neighbours, and how often
constexpr int kPieceStep = kThreads * kColumns, kColumnsPerBlock = kPieces * kPieceStep;

// Block (token, 1024 columns). The block of a token's first place adds all its rows in ascending
// order, so that nothing is sorted and no scratch memory is needed; the others leave.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    embedding_backward_kernel(Rows<const T> dy, const int32_t* tokens, Rows<float> dtable,
                              int64_t num_tokens, int64_t width, bool is_cut) {
  __shared__ uint32_t masks[kMasks];
  const int64_t place = blockIdx.x;
  const int32_t token = tokens[place];
  for (int64_t first = 0; first < place; first += kTokensAtOnce) {
    if (FindToken(tokens, first, place, token, masks)) return;
  }
  const auto column = [](int i) {
    return static_cast<int64_t>(blockIdx.y) * kColumnsPerBlock + i * kPieceStep +
           threadIdx.x * kColumns;
  };
  Chunk<float, kColumns> before[kPieces];
  LoadChunks(before, is_cut, [&](int i) {
    return Part<const float>{dtable[token] + column(i), width - column(i)};
  });
  float sum[kPieces][kColumns];
#pragma unroll
  for (int i = 0; i < kPieces; ++i) ToFloats(before[i], sum[i]);
  for (int64_t first = place; first < num_tokens; first += kTokensAtOnce) {
    if (!FindToken(tokens, first, num_tokens, token, masks)) continue;
    ForEachFound(masks, first, [&](int64_t t) {
      Chunk<T, kColumns> row[kPieces];
      LoadChunks(row, is_cut, [&](int i) {
        return Part<const T>{dy[t] + column(i), width - column(i)};
      });
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sum[i][j] += row[i][j];
      }
    });
  }
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    StoreChunk(FromFloats<float>(sum[i]), dtable[token] + column(i), width - column(i), is_cut);
  }
}

}  // namespace

void Embedding(Stream& stream, const EmbeddingArgs& args) {
  cuda::GatherRows(stream, {.x = args.table, .index = args.tokens, .y = args.y});
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
           MutableRowsOf<float>(args.dtable), args.dy.extent(0), width,
           IsCut({args.dy, args.dtable}));
  });
}

}  // namespace sluice::kernels::cuda
