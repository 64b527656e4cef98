// Forward of attention by mma.sync (any GPU since compute capability 8.0): a block takes 64 queries
// of a head, a warp 16 of them, and goes through the document's keys 64 at a time with online
// softmax (FlashAttention-2, arXiv 2307.08691, algorithm 1). Weights are rounded to BF16 for the
// product with v; their sum, and all other statistics, are FP32.
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/reduce.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kKeyEights = kAttentionTile / 8;

// The two rows of a lane, 8 apart: their largest score (times log2 e), and the sum of the weights
// in this lane's columns.
struct RowState {
  float most[2] = {-__builtin_huge_valf(), -__builtin_huge_valf()};
  float sum[2] = {};
};

// Of the four lanes that share a row.
template <typename Op>
__device__ float RowReduce(float x, Op op) {
  x = op(x, __shfl_xor_sync(kAllLanes, x, 1));
  return op(x, __shfl_xor_sync(kAllLanes, x, 2));
}

// Scores of keys after the query: a weight of 0. `row`: of the lane's first query in the tile.
__device__ void MaskFuture(Sums (&scores)[kKeyEights], int row) {
#pragma unroll
  for (int j = 0; j < kKeyEights; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = 8 * j + threadIdx.x % 4 * 2 + i % 2;
      if (key > row + i / 2 * 8) scores[j][i] = -__builtin_huge_valf();
    }
  }
}

// scores -> weights relative to the new maximum; keep: what older sums are worth now.
__device__ void Weigh(Sums (&scores)[kKeyEights], RowState& state, float (&keep)[2], float factor) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float most = -__builtin_huge_valf();
#pragma unroll
    for (int j = 0; j < kKeyEights; ++j) {
      most = fmaxf(most, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
    }
    most = fmaxf(state.most[half], factor * RowReduce(most, Max()));
    keep[half] = exp2f(state.most[half] - most);
    state.most[half] = most;
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < kKeyEights; ++j) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        scores[j][i] = exp2f(__fmaf_rn(scores[j][i], factor, -most));
        sum += scores[j][i];
      }
    }
    state.sum[half] = __fmaf_rn(state.sum[half], keep[half], sum);
  }
}

// out = keep * out + weights v.
template <int kMostWidth>
__device__ void AddValues(Sums (&out)[kMostWidth / 8], const Sums (&weights)[kKeyEights],
                          const float (&keep)[2], const SharedMatrix& v, int padded_width) {
#pragma unroll
  for (int j = 0; j < kMostWidth / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[j][i] *= keep[i / 2];
  }
#pragma unroll
  for (int k = 0; k < kKeyEights; k += 2) {
    const uint32_t a[4] = {PackPair(weights[k][0], weights[k][1]),
                           PackPair(weights[k][2], weights[k][3]),
                           PackPair(weights[k + 1][0], weights[k + 1][1]),
                           PackPair(weights[k + 1][2], weights[k + 1][3])};
#pragma unroll
    for (int j = 0; j < kMostWidth / 8; j += 2) {
      if (8 * j >= padded_width) break;
      uint32_t b[2][2];
      LoadTransposedB(b, From(v, 8 * k, 8 * j));
      MultiplyAccumulate(out[j], a, b[0]);
      MultiplyAccumulate(out[j + 1], a, b[1]);
    }
  }
}

template <int kMostWidth>
__device__ void StoreResult(const AttentionParameters<bfloat16>& p, const DocumentTile& tile,
                            const Sums (&out)[kMostWidth / 8], const RowState& state) {
  const int lane = threadIdx.x % kWarp, row = threadIdx.x / kWarp * 16 + lane / 4;
  const int64_t head = blockIdx.y;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = RowReduce(state.sum[half], Sum());
    const int query = tile.first + row + 8 * half;
    if (query >= tile.length) continue;
    const int64_t token = tile.begin + query;
    const float factor = 1.0f / sum;
#pragma unroll
    for (int j = 0; j < kMostWidth / 8; ++j) {
      StorePair(p.o, token, head, 8 * j + lane % 4 * 2, out[j][2 * half] * factor,
                out[j][2 * half + 1] * factor);
    }
    if (lane % 4 == 0) p.log_sum_exp[token][head] = (state.most[half] + log2f(sum)) / kLog2E;
  }
}

// Block (x, y): tile x from the end, so that the longest come first, and head y. v is at most
// kMostWidth wide.
template <int kMostWidth>
__global__ void __launch_bounds__(kThreads)
    attention_mma_kernel(const AttentionParameters<bfloat16> p) {
  extern __shared__ __align__(16) uint8_t memory[];
  const DocumentTile tile = TileAt(p.starts, p.sequences, gridDim.x - 1 - blockIdx.x);
  if (tile.length == 0) return;
  const int64_t head = blockIdx.y, key_head = head / p.queries_per_key;
  uint8_t* rest = memory;
  const SharedMatrix q = TakeTile(rest, p.q.width), k = TakeTile(rest, p.k.width);
  const SharedMatrix v = TakeTile(rest, p.v.width);
  const int first_row = threadIdx.x / kWarp * 16;
  LoadTile(q, p.q, tile.begin + tile.first, head, tile.rows_at(tile.first));
  RowState state;
  Sums out[kMostWidth / 8] = {};
  for (int first = 0; first <= tile.first; first += kAttentionTile) {
    LoadTile(k, p.k, tile.begin + first, key_head, tile.rows_at(first));
    LoadTile(v, p.v, tile.begin + first, key_head, tile.rows_at(first));
    __syncthreads();
    Sums scores[kKeyEights] = {};
    MultiplyAlongWidth(scores, From(q, first_row, 0), k, PaddedWidth(p.q.width));
    if (first == tile.first) MaskFuture(scores, first_row + threadIdx.x % kWarp / 4);
    float keep[2];
    Weigh(scores, state, keep, p.scale * kLog2E);
    AddValues<kMostWidth>(out, scores, keep, v, PaddedWidth(p.v.width));
    __syncthreads();  // before the next keys take their place
  }
  StoreResult<kMostWidth>(p, tile, out, state);
}

template <int kMostWidth>
void LaunchForward(Stream& stream, const AttentionParameters<bfloat16>& p, int64_t heads) {
  const int bytes = 2 * TileBytes(p.q.width) + TileBytes(p.v.width);
  const auto kernel = attention_mma_kernel<kMostWidth>;
  CudaStream::From(stream).Note(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
      "asking for shared memory");
  Launch(stream,
         {.blocks = NumAttentionTiles(p.tokens, p.sequences),
          .threads = kThreads,
          .shared_bytes = static_cast<size_t>(bytes),
          .blocks_y = heads},
         kernel, p);
}

}  // namespace

void AttentionByTensorCores(Stream& stream, const AttentionArgs& args) {
  const auto p = ParametersOf<bfloat16>(args);
  if (p.v.width <= 128) {
    LaunchForward<128>(stream, p, args.q.extent(1));
  } else {
    LaunchForward<kMostHeadWidth>(stream, p, args.q.extent(1));
  }
}

}  // namespace sluice::kernels::cuda
