// Backward of attention by mma.sync, in two launches with no traffic between blocks: dq of 64
// queries of a head, then dk and dv of 64 keys. With p = e^(score - log_sum_exp) and
// delta = dout . o,
//   ds = p (dout . v - delta)    dq = scale ds k    dk = scale ds^T q    dv = p^T dout
// (FlashAttention-2, arXiv 2307.08691, algorithm 2). p and ds are rounded to BF16 for the products;
// every sum runs in ascending order.
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/reduce.cuh"

namespace sluice::kernels::cuda {
namespace {

// A tile of scores is cut into 4 x 2 parts of 16 queries and 32 keys, one a warp. In the products
// that follow a warp has 16 rows of the result, and every other 16 columns.
constexpr int kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kPartEights = 4;

struct Place {
  int row, half;  // first of 16 rows; which keys, or which columns
};
__device__ inline Place PlaceOfWarp() {
  const int warp = threadIdx.x / kWarp;
  return {warp % 4 * 16, warp / 4};
}

// Tiles of queries and of keys, and what each query needs to know of its row.
struct Tiles {
  SharedMatrix q, dout, k, v;
  SharedMatrix weights, ds;  // [query][key]
  float* log_sum;            // [kAttentionTile], of base 2; infinite where there is no query
  float* delta;              // [kAttentionTile]
};

constexpr int kScoreBytes = kAttentionTile * (kAttentionTile + 8) * 2;

__device__ inline Tiles PlaceTiles(uint8_t* memory,
                                   const AttentionBackwardParameters<bfloat16>& p) {
  Tiles tiles;
  tiles.q = TakeTile(memory, p.q.width);
  tiles.k = TakeTile(memory, p.k.width);
  tiles.dout = TakeTile(memory, p.v.width);
  tiles.v = TakeTile(memory, p.v.width);
  tiles.weights = TakeTile(memory, kAttentionTile);
  tiles.ds = TakeTile(memory, kAttentionTile);
  tiles.log_sum = reinterpret_cast<float*>(memory);
  tiles.delta = tiles.log_sum + kAttentionTile;
  return tiles;
}

constexpr int SharedBytes(int64_t width, int64_t value_width) {
  return 2 * TileBytes(width) + 2 * TileBytes(value_width) + 2 * kScoreBytes +
         2 * kAttentionTile * static_cast<int>(sizeof(float));
}
// Two blocks a multiprocessor, which has 228 KiB and keeps 1 KiB of them for each; one of the
// widest heads.
static_assert(2 * (SharedBytes(192, 128) + 1024) <= 228 * 1024);
static_assert(SharedBytes(kMostHeadWidth, kMostHeadWidth) <= 227 * 1024);

__device__ inline float DotOfPairs(uint32_t a, uint32_t b, float sum) {
  sum = __fmaf_rn(__uint_as_float(a << 16), __uint_as_float(b << 16), sum);
  return __fmaf_rn(__uint_as_float(a & 0xffff0000u), __uint_as_float(b & 0xffff0000u), sum);
}

// Queries [first, first + kAttentionTile) of the document: q, dout and the statistics. Four threads
// share a row's delta.
__device__ void LoadQueries(const AttentionBackwardParameters<bfloat16>& p,
                            const DocumentTile& tile, int first, int64_t head, const Tiles& tiles) {
  const int64_t token = tile.begin + first;
  const int rows = tile.rows_at(first), width = static_cast<int>(p.v.width);
  LoadTile(tiles.q, p.q, token, head, rows);
  LoadTile(tiles.dout, p.dout, token, head, rows);
  const int row = threadIdx.x / 4, part = threadIdx.x % 4;
  float delta = 0.0f;
  if (row < rows) {
    const bfloat16 *o = p.o.At(token + row, head), *dout = p.dout.At(token + row, head);
    for (int column = 8 * part; column < width; column += 32) {
      const uint4 x = LoadEight(o + column, width - column, p.o.is_aligned);
      const uint4 y = LoadEight(dout + column, width - column, p.dout.is_aligned);
      delta = DotOfPairs(x.x, y.x, delta);
      delta = DotOfPairs(x.y, y.y, delta);
      delta = DotOfPairs(x.z, y.z, delta);
      delta = DotOfPairs(x.w, y.w, delta);
    }
  }
  delta += __shfl_xor_sync(kAllLanes, delta, 1);
  delta += __shfl_xor_sync(kAllLanes, delta, 2);
  if (part != 0) return;
  tiles.delta[row] = delta;
  tiles.log_sum[row] =
      row < rows ? kLog2E * p.log_sum_exp[token + row][head] : __builtin_huge_valf();
}

// The warp's part of ds, and of the weights if kWithWeights. Keys after the query get 0, whatever
// their values are.
template <bool kWithWeights>
__device__ void ComputeScores(const AttentionBackwardParameters<bfloat16>& p, const Tiles& tiles,
                              bool is_diagonal) {
  const Place place = PlaceOfWarp();
  const int first_key = 32 * place.half, lane = threadIdx.x % kWarp;
  Sums scores[kPartEights] = {}, dp[kPartEights] = {};
  MultiplyAlongWidth(scores, From(tiles.q, place.row, 0), From(tiles.k, first_key, 0),
                     PaddedWidth(p.q.width));
  MultiplyAlongWidth(dp, From(tiles.dout, place.row, 0), From(tiles.v, first_key, 0),
                     PaddedWidth(p.v.width));
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int query = place.row + lane / 4 + 8 * half;
    const float log_sum = tiles.log_sum[query], delta = tiles.delta[query];
#pragma unroll
    for (int j = 0; j < kPartEights; ++j) {
      const int key = first_key + 8 * j + lane % 4 * 2;
      float weight[2], ds[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const bool is_future = is_diagonal && key + i > query;
        const int at = 2 * half + i;
        weight[i] = exp2f(__fmaf_rn(scores[j][at], p.scale * kLog2E, -log_sum));
        ds[i] = is_future ? 0.0f : weight[i] * (dp[j][at] - delta);
        if (is_future) weight[i] = 0.0f;
      }
      *reinterpret_cast<uint32_t*>(tiles.ds.At(query, key)) = PackPair(ds[0], ds[1]);
      if constexpr (kWithWeights) {
        *reinterpret_cast<uint32_t*>(tiles.weights.At(query, key)) = PackPair(weight[0], weight[1]);
      }
    }
  }
}

// sums += a b over a tile's 64 tokens: the warp's 16 rows of a ([row][token], or [token][row] if
// kTransposed) and its columns of b ([token][column]).
template <bool kTransposed, int kEights>
__device__ void MultiplyAlongTokens(Sums (&sums)[kEights], const SharedMatrix& a,
                                    const SharedMatrix& b, int padded_width) {
  const Place place = PlaceOfWarp();
#pragma unroll 1
  for (int token = 0; token < kAttentionTile; token += 16) {
    uint32_t a_part[4];
    if constexpr (kTransposed) {
      LoadTransposedA(a_part, From(a, token, place.row));
    } else {
      LoadA(a_part, From(a, place.row, token));
    }
#pragma unroll
    for (int j = 0; j < kEights; j += 2) {
      const int column = 16 * (j + place.half);
      if (column >= padded_width) break;
      uint32_t b_part[2][2];
      LoadTransposedB(b_part, From(b, token, column));
      MultiplyAccumulate(sums[j], a_part, b_part[0]);
      MultiplyAccumulate(sums[j + 1], a_part, b_part[1]);
    }
  }
}

// Rows of the document's tile = factor * sums.
template <int kEights>
__device__ void StoreRows(const Heads<bfloat16>& to, const DocumentTile& tile, int64_t head,
                          const Sums (&sums)[kEights], float factor) {
  const Place place = PlaceOfWarp();
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = tile.first + place.row + lane / 4 + 8 * half;
    if (row >= tile.length) continue;
#pragma unroll
    for (int j = 0; j < kEights; ++j) {
      const int column = 16 * (j / 2 * 2 + place.half) + j % 2 * 8 + lane % 4 * 2;
      StorePair(to, tile.begin + row, head, column, factor * sums[j][2 * half],
                factor * sums[j][2 * half + 1]);
    }
  }
}

// Block (x, y): tile x of queries from the end, head y.
template <int kMostWidth>
__global__ void __launch_bounds__(kThreads)
    attention_mma_backward_query_kernel(const AttentionBackwardParameters<bfloat16> p) {
  extern __shared__ __align__(16) uint8_t memory[];
  const DocumentTile tile = TileAt(p.starts, p.sequences, gridDim.x - 1 - blockIdx.x);
  if (tile.length == 0) return;
  const int64_t head = blockIdx.y, key_head = head / p.queries_per_key;
  const Tiles tiles = PlaceTiles(memory, p);
  LoadQueries(p, tile, tile.first, head, tiles);
  Sums dq[kMostWidth / 16] = {};
  for (int first = 0; first <= tile.first; first += kAttentionTile) {
    LoadTile(tiles.k, p.k, tile.begin + first, key_head, tile.rows_at(first));
    LoadTile(tiles.v, p.v, tile.begin + first, key_head, tile.rows_at(first));
    __syncthreads();
    ComputeScores<false>(p, tiles, first == tile.first);
    __syncthreads();
    MultiplyAlongTokens<false>(dq, tiles.ds, tiles.k, PaddedWidth(p.k.width));
    __syncthreads();  // before the next keys take their place
  }
  StoreRows(p.dq, tile, head, dq, p.scale);
}

// Block (x, y): tile x of keys, key head y. The query heads of the group in ascending order.
template <int kMostWidth>
__global__ void __launch_bounds__(kThreads)
    attention_mma_backward_key_kernel(const AttentionBackwardParameters<bfloat16> p) {
  extern __shared__ __align__(16) uint8_t memory[];
  const DocumentTile tile = TileAt(p.starts, p.sequences, blockIdx.x);
  if (tile.length == 0) return;
  const int64_t key_head = blockIdx.y;
  const Tiles tiles = PlaceTiles(memory, p);
  LoadTile(tiles.k, p.k, tile.begin + tile.first, key_head, tile.rows_at(tile.first));
  LoadTile(tiles.v, p.v, tile.begin + tile.first, key_head, tile.rows_at(tile.first));
  Sums dk[kMostWidth / 16] = {}, dv[kMostWidth / 16] = {};
  for (int64_t in_group = 0; in_group < p.queries_per_key; ++in_group) {
    for (int first = tile.first; first < tile.length; first += kAttentionTile) {
      LoadQueries(p, tile, first, key_head * p.queries_per_key + in_group, tiles);
      __syncthreads();
      ComputeScores<true>(p, tiles, first == tile.first);
      __syncthreads();
      MultiplyAlongTokens<true>(dv, tiles.weights, tiles.dout, PaddedWidth(p.v.width));
      MultiplyAlongTokens<true>(dk, tiles.ds, tiles.q, PaddedWidth(p.k.width));
      __syncthreads();  // before the next queries take their place
    }
  }
  StoreRows(p.dv, tile, key_head, dv, 1.0f);
  StoreRows(p.dk, tile, key_head, dk, p.scale);
}

template <int kMostWidth>
void LaunchBackward(Stream& stream, const AttentionBackwardParameters<bfloat16>& p, int64_t heads) {
  const int bytes = SharedBytes(p.q.width, p.v.width);
  const auto launch = [&](auto kernel, int64_t blocks_y) {
    CudaStream::From(stream).Note(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "asking for shared memory");
    Launch(stream,
           {.blocks = NumAttentionTiles(p.tokens, p.sequences),
            .threads = kThreads,
            .shared_bytes = static_cast<size_t>(bytes),
            .blocks_y = blocks_y},
           kernel, p);
  };
  launch(attention_mma_backward_query_kernel<kMostWidth>, heads);
  launch(attention_mma_backward_key_kernel<kMostWidth>, heads / p.queries_per_key);
}

}  // namespace

void AttentionBackwardByTensorCores(Stream& stream, const AttentionBackwardArgs& args) {
  if (AttentionBackwardByWgmma(stream, args)) return;
  const auto p = ParametersOf<bfloat16>(args);
  if (p.q.width <= 128 && p.v.width <= 128) {
    LaunchBackward<128>(stream, p, args.q.extent(1));
  } else {
    LaunchBackward<kMostHeadWidth>(stream, p, args.q.extent(1));
  }
}

}  // namespace sluice::kernels::cuda
