// The parts of attention_hopper_backward.cu: where tiles lie in shared memory, which of them a
// block meets, and what a warpgroup does with the registers of one. Of a pair of tiles, x is q or k
// and y is dout or v; a pair is kept by a block or passes by.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_hopper.cuh"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/hopper_ptx.cuh"
#include "kernels/cuda/hopper_ring.cuh"
#include "kernels/cuda/hopper_wgmma.cuh"

namespace sluice::kernels::cuda {

constexpr int kStep = 64;  // tokens of a warpgroup, and of a stage
constexpr int kMultiplying = 2, kTile = kMultiplying * kStep;
constexpr int kThreads = kWarpgroup * (1 + kMultiplying);
constexpr int kBoxBytes = kStep * kLineBytes;
constexpr int kStages = 3, kNoStage = -1;

// Whose gradients a block computes: the rows of its scores. The columns are the other's tokens.
enum class Side { kQueries, kKeys };

using BackwardParameters = AttentionBackwardParameters<bfloat16>;

struct BackwardMaps {
  CUtensorMap q, k, v, dout;
};

// [head][token]; log_sum is of base 2.
struct BackwardStatistics {
  Rows<float> log_sum, delta;
};

// The steps of a block: tokens [begin, end) of its document, kStep at a time, once for each head.
struct Walk {
  int begin, end, num_heads;
  int first, head = 0;  // of this step
  __device__ Walk(int begin, int end, int num_heads)
      : begin(begin), end(end), num_heads(num_heads), first(begin - kStep) {}
  __device__ bool Advance() {
    first += kStep;
    if (first < end) return true;
    first = begin;
    return ++head < num_heads;
  }
};

// Queries meet the keys up to their own; keys the queries from their own on.
template <Side kSide>
__device__ Walk WalkOf(const DocumentTile& tile, int num_heads) {
  if constexpr (kSide == Side::kQueries) return Walk(0, min(tile.first + kTile, tile.length), 1);
  return Walk(tile.first, tile.length, num_heads);
}

struct PairOfMaps {
  const CUtensorMap *x, *y;
};

// Dynamic shared memory: pairs of tiles, in boxes of [64 tokens][64 columns] one behind the other,
// each at a multiple of 1024 bytes; those of the warpgroups, then those of the stages; statistics
// of the stages; barriers.
template <int kWidth, int kValueWidth>
struct BackwardShared {
  static constexpr int kBoxes = kWidth / kBoxColumns, kValueBoxes = kValueWidth / kBoxColumns;
  static constexpr int kPairBytes = (kBoxes + kValueBoxes) * kBoxBytes;
  static constexpr int kStatisticBytes = kStep * static_cast<int>(sizeof(float));
  static constexpr int kBytes = 1024 + (kMultiplying + kStages) * kPairBytes +
                                2 * kStages * kStatisticBytes +
                                8 * (1 + 2 * kStages + kMultiplying);

  uint8_t* base;
  __device__ uint8_t* x(int pair) const { return base + pair * kPairBytes; }
  __device__ uint8_t* y(int pair) const { return x(pair) + kBoxes * kBoxBytes; }
  __device__ float* log_sum(int stage) const {
    return reinterpret_cast<float*>(x(kMultiplying + kStages)) + 2 * stage * kStep;
  }
  __device__ float* delta(int stage) const { return log_sum(stage) + kStep; }
  __device__ uint64_t* stay_full() const { return reinterpret_cast<uint64_t*>(log_sum(kStages)); }
  __device__ uint64_t* full(int stage) const { return stay_full() + 1 + stage; }
  __device__ uint64_t* empty(int stage) const { return stay_full() + 1 + kStages + stage; }

  __device__ uint64_t* turn(int group) const { return empty(kStages) + group; }

  // The pair of that number from `token` on.
  __device__ void CopyPair(int pair, const PairOfMaps& maps, int64_t head, int token,
                           uint64_t* barrier) const {
    for (int box = 0; box < kBoxes; ++box) {
      CopyBox(x(pair) + box * kBoxBytes, maps.x,
              (static_cast<int>(head) * kBoxes + box) * kBoxColumns, token, barrier);
    }
    for (int box = 0; box < kValueBoxes; ++box) {
      CopyBox(y(pair) + box * kBoxBytes, maps.y,
              (static_cast<int>(head) * kValueBoxes + box) * kBoxColumns, token, barrier);
    }
  }

  __device__ void CopyStaying(const PairOfMaps& maps, int64_t head,
                              const DocumentTile& tile) const {
    for (int group = 0; group < kMultiplying; ++group) {
      ArriveAndExpect(stay_full(), kPairBytes);
      CopyPair(group, maps, head, tile.begin + tile.first + group * kStep, stay_full());
    }
  }

  __device__ void CopyPassing(const PairOfMaps& maps, int64_t first_head, Walk walk,
                              const DocumentTile& tile) const {
    for (Ring ring{kStages}; walk.Advance(); ring.Advance()) {
      WaitForPhase(empty(ring.stage), ring.phase ^ 1);
      ArriveAndExpect(full(ring.stage), kPairBytes);
      CopyPair(kMultiplying + ring.stage, maps, first_head + walk.head, tile.begin + walk.first,
               full(ring.stage));
    }
  }

  // A warp's part in the stages of passing queries: their statistics, which TMA could copy only
  // from multiples of four tokens on. A query that is none has weights of 0.
  __device__ void CopyStatistics(const BackwardStatistics& statistics, int64_t first_head,
                                 Walk walk, const DocumentTile& tile) const {
    const int lane = threadIdx.x % kWarp;
    for (Ring ring{kStages}; walk.Advance(); ring.Advance()) {
      float log_sums[2], deltas[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int query = walk.first + lane + half * kWarp;
        const bool is_there = query < tile.length;
        const int64_t head = first_head + walk.head, token = tile.begin + query;
        log_sums[half] = is_there ? statistics.log_sum[head][token] : __builtin_huge_valf();
        deltas[half] = is_there ? statistics.delta[head][token] : 0.0f;
      }
      WaitForPhase(empty(ring.stage), ring.phase ^ 1);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        log_sum(ring.stage)[lane + half * kWarp] = log_sums[half];
        delta(ring.stage)[lane + half * kWarp] = deltas[half];
      }
      Arrive(full(ring.stage));
    }
  }
};

// This lane's first row of its warpgroup's 64; the second is 8 below.
__device__ inline int RowOfLane() {
  return static_cast<int>(threadIdx.x) % kWarpgroup / kWarp * 16 +
         static_cast<int>(threadIdx.x) % kWarp / 4;
}

// The steps in which a warpgroup has scores.
template <Side kSide, int kWidth, int kValueWidth>
class Steps {
 public:
  using Shared = BackwardShared<kWidth, kValueWidth>;
  __device__ Steps(const Shared& shared, const DocumentTile& tile, int64_t queries_per_key,
                   int group)
      : shared_(shared),
        group_(group),
        row_(tile.first + group * kStep),
        length_(tile.length),
        turn_phase_(group == 0 ? 1 : 0),
        walk_(WalkOf<kSide>(tile, static_cast<int>(queries_per_key))) {}

  // Goes on to the next one and waits for its tiles. False: there is none.
  __device__ bool Next() {
    while (walk_.Advance()) {
      ring_.Advance();
      WaitForPhase(shared_.full(ring_.stage), ring_.phase);
      if (length_ - walk_.first < kStep) ClearForeign(length_ - walk_.first);
      const bool is_future =
          kSide == Side::kQueries ? walk_.first >= row_ + kStep : walk_.first + kStep <= row_;
      if (row_ < length_ && !is_future) return true;
      Release(ring_.stage);
      TakeTurn();
      PassTurn();
    }
    return false;
  }

  __device__ int stage() const { return Uniform(ring_.stage); }
  __device__ int first() const { return walk_.first; }

  // For dq the two warpgroups issue their products by turns, once a step each: one's weights are
  // computed while the other's products run. (For dk and dv an H100 does not gain by it.)
  __device__ void TakeTurn() {
    if constexpr (kSide == Side::kQueries) {
      WaitForPhase(shared_.turn(group_), turn_phase_);
      turn_phase_ ^= 1;
    }
  }
  __device__ void PassTurn() const {
    if constexpr (kSide == Side::kQueries) {
      __syncwarp();
      ArriveIf(threadIdx.x % kWarp == 0, shared_.turn(1 - group_));
    }
  }

  // Gives a stage back to the warpgroup that copies.
  __device__ void Release(int stage) const {
    __syncwarp();
    if (stage != kNoStage) ArriveIf(threadIdx.x % kWarp == 0, shared_.empty(stage));
  }

  // Whether in the step from token `first` on some key is after its query.
  __device__ bool NeedsMask(int first) const {
    return kSide == Side::kQueries ? first + kStep > row_ + 1 : first + 1 < row_ + kStep;
  }
  __device__ void Mask(float (&values)[kStep / 2], int first, float fill) const {
    const int row = row_ + RowOfLane();
#pragma unroll
    for (int i = 0; i < kStep / 2; ++i) {
      const int of_row = row + i / 2 % 2 * 8;
      const int column = first + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
      if (kSide == Side::kQueries ? column > of_row : column < of_row) values[i] = fill;
    }
  }

 private:
  // Tokens from `valid` on are another document's: their factor is 0, but 0 times what they hold
  // need not be.
  __device__ void ClearForeign(int valid) const {
    const int pair = kMultiplying + ring_.stage;
    for (int box = 0; box < Shared::kBoxes; ++box) {
      ClearLines(shared_.x(pair) + box * kBoxBytes, valid, kStep, kMultiplying * kWarpgroup);
    }
    if constexpr (kSide == Side::kKeys) {
      for (int box = 0; box < Shared::kValueBoxes; ++box) {
        ClearLines(shared_.y(pair) + box * kBoxBytes, valid, kStep, kMultiplying * kWarpgroup);
      }
    }
    FenceForTensorCores();
    SynchronizeThreads(1, kMultiplying * kWarpgroup);
  }

  const Shared& shared_;
  const int group_, row_, length_;  // row_: the warpgroup's first token of the document
  uint32_t turn_phase_;             // the first turn is warpgroup 0's
  Walk walk_;
  Ring ring_{kStages, kStages - 1, 1};  // before its first stage
};

// scores[64][64] = a b^T along their width, under way as a group.
template <int kWidth>
__device__ void IssueScores(float (&scores)[kStep / 2], const uint8_t* a, const uint8_t* b) {
  const uint64_t a_tile = TileDescriptor(a), b_tile = TileDescriptor(b);
#pragma unroll
  for (int i = 0; i < kWidth / 16; ++i) {
    const int at = (i / 4 * kBoxBytes + i % 4 * 32) >> 4;
    MultiplyBF16<false>(scores, a_tile + at, b_tile + at, i > 0);
  }
  CommitWarpgroup();
}

// sums[64][width] += a[64][64 tokens] b[64 tokens][width], under way.
template <int kCount>
__device__ void MultiplyByTokens(float (&sums)[kCount], const uint32_t (&a)[kStep / 16][4],
                                 const uint8_t* b) {
  const uint64_t tile = TransposedDescriptor<kStep>(b);
#pragma unroll
  for (int i = 0; i < kStep / 16; ++i) {
    MultiplyBF16<true>(sums, a[i], tile + (i * 16 * kLineBytes >> 4), true);
  }
}

__device__ inline void PackLeft(uint32_t (&packed)[kStep / 16][4],
                                const float (&values)[kStep / 2]) {
#pragma unroll
  for (int i = 0; i < kStep / 4; ++i) {
    packed[i / 4][i % 4] = PackPair(values[2 * i], values[2 * i + 1]);
  }
}

// Of the four values of eight columns, which statistic is whose: queries are rows or columns.
template <Side kSide>
__device__ float StatisticOf(const float2& pair, int value) {
  return (kSide == Side::kQueries ? value / 2 : value % 2) == 0 ? pair.x : pair.y;
}
__device__ inline float2 ColumnPair(const float* statistic, int eight) {
  return *reinterpret_cast<const float2*>(statistic + 8 * eight + threadIdx.x % 4 * 2);
}

// scores -> weights. log_sum(eight): the pair of statistics for eight columns.
template <Side kSide, typename LogSum>
__device__ void Exponentiate(float (&scores)[kStep / 2], float factor, LogSum log_sum) {
#pragma unroll
  for (int j = 0; j < kStep / 8; ++j) {
    const float2 pair = log_sum(j);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[4 * j + i] =
          PowerOfTwo(__fmaf_rn(scores[4 * j + i], factor, -StatisticOf<kSide>(pair, i)));
    }
  }
}

__device__ inline float WeightAt(const float (&weights)[kStep / 2], int i) { return weights[i]; }
__device__ inline float WeightAt(const uint32_t (&packed)[kStep / 16][4], int i) {
  const uint32_t pair = packed[i / 8][i / 2 % 4];
  return __uint_as_float(i % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
}

// dp -> ds = weight (dp - delta).
template <Side kSide, typename Weights, typename Delta>
__device__ void MultiplyByWeights(float (&dp)[kStep / 2], const Weights& weights, Delta delta) {
#pragma unroll
  for (int j = 0; j < kStep / 8; ++j) {
    const float2 pair = delta(j);
#pragma unroll
    for (int i = 4 * j; i < 4 * j + 4; ++i) {
      dp[i] = WeightAt(weights, i) * (dp[i] - StatisticOf<kSide>(pair, i % 4));
    }
  }
}

}  // namespace sluice::kernels::cuda
