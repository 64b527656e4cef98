// Backward of attention by wgmma, in two launches with no traffic between the blocks of either. A
// block keeps 128 tokens of a head, 64 of each of two warpgroups that multiply, and a third
// warpgroup copies the tokens that they meet, 64 at a time, by TMA into a ring of stages:
//   - dq: it keeps q and dout of queries, and k and v pass by;
//   - dk and dv: it keeps k and v of keys, and q and dout pass by, of each query head of the group.
// With p = e^(score - log_sum_exp) and delta = dout . o,
//   ds = p (dout . v - delta)    dq = scale ds k    dk = scale ds^T q    dv = p^T dout
// (FlashAttention-2, arXiv 2307.08691, algorithm 2). The rows of a warpgroup's scores are the
// tokens that it keeps, so that p^T and ds^T, rounded to BF16, are left operands as they lie in
// registers; what passes by is read once along its width and once transposed. The first launch
// leaves log_sum_exp and delta of each head side by side for the second. Every sum runs in
// ascending order.
#include "kernels/core/status_macros.h"
#include "kernels/cuda/attention_hopper_backward.cuh"
#include "kernels/cuda/reduce.cuh"

namespace sluice::kernels::cuda {
namespace {

__device__ inline float DotOfPairs(uint32_t a, uint32_t b, float sum) {
  sum = __fmaf_rn(__uint_as_float(a << 16), __uint_as_float(b << 16), sum);
  return __fmaf_rn(__uint_as_float(a & 0xffff0000u), __uint_as_float(b & 0xffff0000u), sum);
}

// Of a token's row: four lanes have every fourth eight columns each, and all get the sum.
template <int kValueWidth>
__device__ float Delta(const BackwardParameters& p, int64_t token, int64_t head) {
  const int part = threadIdx.x % 4;
  const bfloat16 *o = p.o.At(token, head), *dout = p.dout.At(token, head);
  float delta = 0.0f;
#pragma unroll
  for (int column = 8 * part; column < kValueWidth; column += 32) {
    const uint4 x = LoadEight(o + column, 8, p.o.is_aligned);
    const uint4 y = LoadEight(dout + column, 8, true);
    delta = DotOfPairs(x.x, y.x, delta);
    delta = DotOfPairs(x.y, y.y, delta);
    delta = DotOfPairs(x.z, y.z, delta);
    delta = DotOfPairs(x.w, y.w, delta);
  }
  return delta;
}

// Statistics of the lane's queries `first` and first + 8 of the document, which are also kept for
// the second launch.
template <int kValueWidth>
__device__ void KeepStatistics(const BackwardParameters& p, const BackwardStatistics& statistics,
                               const DocumentTile& tile, int first, float2& log_sum,
                               float2& delta) {
  const int64_t head = blockIdx.y;
  float sums[2] = {}, deltas[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t token = tile.begin + first + 8 * half;
    const bool is_there = first + 8 * half < tile.length;
    if (is_there) {
      deltas[half] = Delta<kValueWidth>(p, token, head);
      sums[half] = kLog2E * p.log_sum_exp[token][head];
    }
    deltas[half] += __shfl_xor_sync(kAllLanes, deltas[half], 1);
    deltas[half] += __shfl_xor_sync(kAllLanes, deltas[half], 2);
    if (is_there && threadIdx.x % 4 == 0) {
      statistics.log_sum[head][token] = sums[half];
      statistics.delta[head][token] = deltas[half];
    }
  }
  log_sum = make_float2(sums[0], sums[1]);
  delta = make_float2(deltas[0], deltas[1]);
}

// Rows `first` and first + 8 of the document, as far as it has them, = factor * sums.
template <int kCount>
__device__ void StoreRows(const Heads<bfloat16>& to, const DocumentTile& tile, int first,
                          const float (&sums)[kCount], float factor) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first + 8 * half;
    if (row >= tile.length) continue;
#pragma unroll
    for (int j = 0; j < kCount / 4; ++j) {
      StorePair(to, tile.begin + row, blockIdx.y, 8 * j + threadIdx.x % 4 * 2,
                factor * sums[4 * j + 2 * half], factor * sums[4 * j + 2 * half + 1]);
    }
  }
}

// The gradients of a warpgroup's 64 tokens.
template <int kWidth, int kValueWidth>
__device__ void DifferentiateQueries(const BackwardParameters& p,
                                     const BackwardStatistics& statistics, const DocumentTile& tile,
                                     const BackwardShared<kWidth, kValueWidth>& shared) {
  constexpr Side kSide = Side::kQueries;
  const int group = Uniform(threadIdx.x / kWarpgroup) - 1;
  const int row = tile.first + group * kStep + RowOfLane();
  float2 log_sum, delta;
  KeepStatistics<kValueWidth>(p, statistics, tile, row, log_sum, delta);
  Steps<kSide, kWidth, kValueWidth> steps(shared, tile, p.queries_per_key, group);
  WaitForPhase(shared.stay_full(), 0);
  if (!steps.Next()) return;
  float dq[kWidth / 2] = {}, scores[kStep / 2], ds[kStep / 2];
  uint32_t packed[kStep / 16][4];
  HoldRegisters(dq);
  const auto issue_scores = [&](int stage) {
    IssueScores<kWidth>(scores, shared.x(group), shared.x(kMultiplying + stage));
    IssueScores<kValueWidth>(ds, shared.y(group), shared.y(kMultiplying + stage));
  };
  const auto hold_and_fence = [&] {
    HoldRegisters(dq);
    HoldRegisters(scores);
    HoldRegisters(ds);
    FenceWarpgroup();
  };
  steps.TakeTurn();
  hold_and_fence();
  issue_scores(steps.stage());
  steps.PassTurn();
  int before = kNoStage;
  while (true) {
    const int stage = steps.stage(), first = steps.first();
    WaitWarpgroup<1>();  // for the scores, and so for the product of the step before
    HoldRegisters(scores);
    steps.Release(before);
    if (steps.NeedsMask(first)) steps.Mask(scores, first, -__builtin_huge_valf());
    Exponentiate<kSide>(scores, p.scale * kLog2E, [&](int) { return log_sum; });
    WaitWarpgroup<0>();
    HoldRegisters(ds);
    MultiplyByWeights<kSide>(ds, scores, [&](int) { return delta; });
    if (steps.NeedsMask(first)) steps.Mask(ds, first, 0.0f);
    PackLeft(packed, ds);
    before = stage;
    if (!steps.Next()) break;
    steps.TakeTurn();
    hold_and_fence();
    MultiplyByTokens(dq, packed, shared.x(kMultiplying + before));
    issue_scores(steps.stage());
    steps.PassTurn();
  }
  hold_and_fence();
  MultiplyByTokens(dq, packed, shared.x(kMultiplying + before));
  CommitWarpgroup();
  WaitWarpgroup<0>();
  HoldRegisters(dq);
  StoreRows(p.dq, tile, row, dq, p.scale);
}

// dk and dv leave no registers for weights in FP32 beside dp: ds is a product with the rounded
// ones.
template <int kWidth, int kValueWidth>
__device__ void DifferentiateKeys(const BackwardParameters& p, const DocumentTile& tile,
                                  const BackwardShared<kWidth, kValueWidth>& shared) {
  constexpr Side kSide = Side::kKeys;
  const int group = Uniform(threadIdx.x / kWarpgroup) - 1;
  Steps<kSide, kWidth, kValueWidth> steps(shared, tile, p.queries_per_key, group);
  WaitForPhase(shared.stay_full(), 0);
  if (!steps.Next()) return;
  float dk[kWidth / 2] = {}, dv[kValueWidth / 2] = {};
  int before = kNoStage;
  while (true) {
    const int stage = steps.stage(), pair = kMultiplying + stage, first = steps.first();
    uint32_t weights[kStep / 16][4], packed[kStep / 16][4];
    {
      float scores[kStep / 2];
      HoldRegisters(scores);
      FenceWarpgroup();
      IssueScores<kWidth>(scores, shared.x(group), shared.x(pair));
      WaitWarpgroup<0>();
      HoldRegisters(scores);
      steps.Release(before);
      if (steps.NeedsMask(first)) steps.Mask(scores, first, -__builtin_huge_valf());
      Exponentiate<kSide>(scores, p.scale * kLog2E,
                          [&](int eight) { return ColumnPair(shared.log_sum(stage), eight); });
      PackLeft(weights, scores);
    }
    float ds[kStep / 2];
    HoldRegisters(ds);
    HoldRegisters(dv);
    FenceWarpgroup();
    IssueScores<kValueWidth>(ds, shared.y(group), shared.y(pair));
    MultiplyByTokens(dv, weights, shared.y(pair));
    CommitWarpgroup();
    WaitWarpgroup<1>();
    HoldRegisters(ds);
    MultiplyByWeights<kSide>(ds, weights,
                             [&](int eight) { return ColumnPair(shared.delta(stage), eight); });
    if (steps.NeedsMask(first)) steps.Mask(ds, first, 0.0f);
    PackLeft(packed, ds);
    HoldRegisters(dk);
    FenceWarpgroup();
    MultiplyByTokens(dk, packed, shared.x(pair));
    CommitWarpgroup();
    WaitWarpgroup<0>();
    before = stage;
    if (!steps.Next()) break;
  }
  WaitWarpgroup<0>();
  HoldRegisters(dk);
  HoldRegisters(dv);
  const int row = tile.first + group * kStep + RowOfLane();
  StoreRows(p.dv, tile, row, dv, 1.0f);
  StoreRows(p.dk, tile, row, dk, p.scale);
}

template <int kWidth, int kValueWidth>
__device__ BackwardShared<kWidth, kValueWidth> PlaceShared(int arrivals_of_copies) {
  extern __shared__ uint8_t dynamic[];
  const uint32_t misaligned = SharedAddress(dynamic) % 1024;
  const BackwardShared<kWidth, kValueWidth> shared{dynamic +
                                                   (misaligned == 0 ? 0 : 1024 - misaligned)};
  if (threadIdx.x == 0) {
    InitBarrier(shared.stay_full(), kMultiplying);
    for (int stage = 0; stage < kStages; ++stage) {
      InitBarrier(shared.full(stage), arrivals_of_copies);
      InitBarrier(shared.empty(stage), kMultiplying * kWarpgroup / kWarp);
    }
    for (int group = 0; group < kMultiplying; ++group) {
      InitBarrier(shared.turn(group), kWarpgroup / kWarp);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  return shared;
}

// Block (x, y): tile x from the end, so that the longest come first, and head y.
template <int kWidth, int kValueWidth>
__global__ void __launch_bounds__(kThreads, 1)
    attention_hopper_backward_query_kernel(const __grid_constant__ BackwardMaps maps,
                                           const __grid_constant__ BackwardParameters p,
                                           const __grid_constant__ BackwardStatistics statistics) {
  const DocumentTile tile = TileAt<kTile>(p.starts, p.sequences, gridDim.x - 1 - blockIdx.x);
  if (tile.length == 0) return;
  const auto shared = PlaceShared<kWidth, kValueWidth>(1);
  if (threadIdx.x < kWarpgroup) {
    KeepRegisters<24>();
    if (threadIdx.x == 0) {
      const int64_t head = blockIdx.y;
      shared.CopyStaying({&maps.q, &maps.dout}, head, tile);
      shared.CopyPassing({&maps.k, &maps.v}, head / p.queries_per_key,
                         WalkOf<Side::kQueries>(tile, 1), tile);
    }
  } else {
    TakeRegisters<240>();
    DifferentiateQueries(p, statistics, tile, shared);
  }
}

// Block (x, y): tile x of keys, key head y.
template <int kWidth, int kValueWidth>
__global__ void __launch_bounds__(kThreads, 1)
    attention_hopper_backward_key_kernel(const __grid_constant__ BackwardMaps maps,
                                         const __grid_constant__ BackwardParameters p,
                                         const __grid_constant__ BackwardStatistics statistics) {
  const DocumentTile tile = TileAt<kTile>(p.starts, p.sequences, blockIdx.x);
  if (tile.length == 0) return;
  const auto shared = PlaceShared<kWidth, kValueWidth>(1 + kWarp);
  if (threadIdx.x < kWarpgroup) {
    KeepRegisters<24>();
    const int64_t key_head = blockIdx.y, head = key_head * p.queries_per_key;
    const Walk walk = WalkOf<Side::kKeys>(tile, static_cast<int>(p.queries_per_key));
    if (threadIdx.x == 0) {
      shared.CopyStaying({&maps.k, &maps.v}, key_head, tile);
      shared.CopyPassing({&maps.q, &maps.dout}, head, walk, tile);
    } else if (threadIdx.x / kWarp == 1) {
      shared.CopyStatistics(statistics, head, walk, tile);
    }
  } else {
    TakeRegisters<240>();
    DifferentiateKeys(p, tile, shared);
  }
}

template <int kWidth, int kValueWidth>
absl::Status LaunchBackward(Stream& stream, const AttentionBackwardArgs& args) {
  constexpr int kBytes = BackwardShared<kWidth, kValueWidth>::kBytes;
  static_assert(kBytes <= 203 * 1024, "more shared memory than its budget");
  const auto p = ParametersOf<bfloat16>(args);
  const int64_t heads = args.q.extent(1), key_heads = args.k.extent(1);
  auto* scratch = static_cast<float*>(args.scratch.raw_mutable_data());
  const BackwardStatistics statistics = {.log_sum = {scratch, p.tokens},
                                         .delta = {scratch + heads * p.tokens, p.tokens}};
  BackwardMaps maps;
  ASSIGN_OR_RETURN(maps.q, MapOf(p.q, p.tokens, heads, kStep));
  ASSIGN_OR_RETURN(maps.k, MapOf(p.k, p.tokens, key_heads, kStep));
  ASSIGN_OR_RETURN(maps.v, MapOf(p.v, p.tokens, key_heads, kStep));
  ASSIGN_OR_RETURN(maps.dout, MapOf(p.dout, p.tokens, heads, kStep));
  const auto of_queries = attention_hopper_backward_query_kernel<kWidth, kValueWidth>;
  const auto of_keys = attention_hopper_backward_key_kernel<kWidth, kValueWidth>;
  constexpr auto kMostShared = cudaFuncAttributeMaxDynamicSharedMemorySize;
  RETURN_IF_ERROR(
      StatusOf(cudaFuncSetAttribute(of_queries, kMostShared, kBytes), "asking for shared memory"));
  RETURN_IF_ERROR(
      StatusOf(cudaFuncSetAttribute(of_keys, kMostShared, kBytes), "asking for shared memory"));
  LaunchShape shape = {.blocks = NumAttentionTiles(p.tokens, p.sequences, kTile),
                       .threads = kThreads,
                       .shared_bytes = kBytes,
                       .blocks_y = heads};
  Launch(stream, shape, of_queries, maps, p, statistics);
  shape.blocks_y = key_heads;
  Launch(stream, shape, of_keys, maps, p, statistics);
  return absl::OkStatus();
}

}  // namespace

bool AttentionBackwardByWgmma(Stream& stream, const AttentionBackwardArgs& args) {
  CudaStream& cuda = CudaStream::From(stream);
  const auto p = ParametersOf<bfloat16>(args);
  if (cuda.options().only_mma_sync || p.tokens == 0) return false;
  if (!p.q.is_aligned || !p.k.is_aligned || !p.v.is_aligned || !p.dout.is_aligned) return false;
  return ForHopperWidths(p.q.width, p.v.width, [&](auto width, auto value_width) {
    cuda.Note(LaunchBackward<decltype(width)::value, decltype(value_width)::value>(stream, args));
  });
}

}  // namespace sluice::kernels::cuda
