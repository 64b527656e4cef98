// Online softmax over tiles of keys (FlashAttention-2, arXiv 2307.08691, algorithm 1), on the
// registers that mma.sync and wgmma leave: a lane holds of each eight columns two neighbours of two
// rows, 8 apart. Its scores are either [eight][4] or one array, 4 an eight.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/reduce.cuh"

namespace sluice::kernels::cuda {

// The two rows of a lane: their largest score (times log2 e), and the sum of the weights in this
// lane's columns.
struct RowState {
  float most[2] = {-__builtin_huge_valf(), -__builtin_huge_valf()};
  float sum[2] = {};
};

template <int kEights>
__device__ float& ScoreAt(Sums (&scores)[kEights], int eight, int i) {
  return scores[eight][i];
}
template <int kCount>
__device__ float& ScoreAt(float (&scores)[kCount], int eight, int i) {
  return scores[4 * eight + i];
}

// Of the four lanes that share a row.
template <typename Op>
__device__ float RowReduce(float x, Op op) {
  x = op(x, __shfl_xor_sync(kAllLanes, x, 1));
  return op(x, __shfl_xor_sync(kAllLanes, x, 2));
}

// Scores of keys after the query: a weight of 0. `row`: of the lane's first query, counted from the
// tile's first key.
template <int kEights, typename Scores>
__device__ void MaskFuture(Scores& scores, int row) {
#pragma unroll
  for (int j = 0; j < kEights; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = 8 * j + threadIdx.x % 4 * 2 + i % 2;
      if (key > row + i / 2 * 8) ScoreAt(scores, j, i) = -__builtin_huge_valf();
    }
  }
}

// scores -> weights relative to the new maximum; keep: what older sums are worth now.
template <int kEights, typename Scores>
__device__ void Weigh(Scores& scores, RowState& state, float (&keep)[2], float factor) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float most = -__builtin_huge_valf();
#pragma unroll
    for (int j = 0; j < kEights; ++j) {
      most = fmaxf(most, fmaxf(ScoreAt(scores, j, 2 * half), ScoreAt(scores, j, 2 * half + 1)));
    }
    most = fmaxf(state.most[half], factor * RowReduce(most, Max()));
    keep[half] = exp2f(state.most[half] - most);
    state.most[half] = most;
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < kEights; ++j) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        float& score = ScoreAt(scores, j, i);
        score = PowerOfTwo(__fmaf_rn(score, factor, -most));
        sum += score;
      }
    }
    state.sum[half] = __fmaf_rn(state.sum[half], keep[half], sum);
  }
}

// The lane's rows of the result: token `first` of the document and the one 8 below, those that the
// document has. kWidth columns at most are there.
template <int kWidth, typename Out>
__device__ void StoreResult(const AttentionParameters<bfloat16>& p, const DocumentTile& tile,
                            int first, Out& out, const RowState& state) {
  const int64_t head = blockIdx.y;
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = RowReduce(state.sum[half], Sum());
    const int query = first + 8 * half;
    if (query >= tile.length) continue;
    const int64_t token = tile.begin + query;
    const float factor = 1.0f / sum;
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j) {
      StorePair(p.o, token, head, 8 * j + lane % 4 * 2, ScoreAt(out, j, 2 * half) * factor,
                ScoreAt(out, j, 2 * half + 1) * factor);
    }
    if (lane % 4 == 0) p.log_sum_exp[token][head] = (state.most[half] + log2f(sum)) / kLog2E;
  }
}

}  // namespace sluice::kernels::cuda
