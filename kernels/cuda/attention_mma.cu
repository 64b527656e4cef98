// Forward of attention by mma.sync (any GPU since compute capability 8.0): a block takes 64 queries
// of a head, a warp 16 of them, and goes through the document's keys 64 at a time with online
// softmax (FlashAttention-2, arXiv 2307.08691, algorithm 1). Weights are rounded to BF16 for the
// product with v; their sum, and all other statistics, are FP32.
#include "kernels/cuda/attention_softmax.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kKeyEights = kAttentionTile / 8;

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
    if (first == tile.first) MaskFuture<kKeyEights>(scores, first_row + threadIdx.x % kWarp / 4);
    float keep[2];
    Weigh<kKeyEights>(scores, state, keep, p.scale * kLog2E);
    AddValues<kMostWidth>(out, scores, keep, v, PaddedWidth(p.v.width));
    __syncthreads();  // before the next keys take their place
  }
  StoreResult<kMostWidth>(p, tile, tile.first + first_row + threadIdx.x % kWarp / 4, out, state);
}

constexpr int SharedBytes(int64_t width, int64_t value_width) {
  return 2 * TileBytes(width) + TileBytes(value_width);
}
// Three blocks a multiprocessor, which has 228 KiB and keeps 1 KiB of them for each.
static_assert(3 * (SharedBytes(192, 128) + 1024) <= 228 * 1024);
static_assert(2 * (SharedBytes(kMostHeadWidth, kMostHeadWidth) + 1024) <= 228 * 1024);

template <int kMostWidth>
void LaunchForward(Stream& stream, const AttentionParameters<bfloat16>& p, int64_t heads) {
  const int bytes = SharedBytes(p.q.width, p.v.width);
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
  if (AttentionByWgmma(stream, args)) return;
  const auto p = ParametersOf<bfloat16>(args);
  if (p.v.width <= 128) {
    LaunchForward<128>(stream, p, args.q.extent(1));
  } else {
    LaunchForward<kMostHeadWidth>(stream, p, args.q.extent(1));
  }
}

}  // namespace sluice::kernels::cuda
