// Forward of attention by wgmma: a block takes 128 queries of a head. One warpgroup copies tiles of
// 128 keys and values by TMA into two stages; two others have 64 queries each and go through the
// document's keys with online softmax. Weights are rounded to BF16 and stay in registers as the
// left operand of the product with v, which lies transposed. Sums and statistics are FP32.
#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "kernels/cuda/attention_hopper.cuh"
#include "kernels/cuda/attention_softmax.cuh"
#include "kernels/cuda/hopper_ptx.cuh"
#include "kernels/cuda/hopper_ring.cuh"
#include "kernels/cuda/hopper_wgmma.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kTile = 128;  // queries, and keys of a stage
constexpr int kBoxBytes = kTile * kLineBytes;
constexpr int kStages = 2;
constexpr int kMultiplying = 2, kThreads = kWarpgroup * (1 + kMultiplying);
constexpr int kEights = kTile / 8;  // of a row of scores

struct AttentionMaps {
  CUtensorMap q, k, v;
};

template <int kWidth, int kValueWidth>
struct HopperAttention {
  static constexpr int kBoxes = kWidth / kBoxColumns, kValueBoxes = kValueWidth / kBoxColumns;
  static constexpr int kSharedBytes =
      1024 + (kBoxes + kStages * (kBoxes + kValueBoxes)) * kBoxBytes + 8 * (1 + 4 * kStages);

  // Dynamic shared memory: boxes of [128 tokens][64 columns], those of a tile one behind the other,
  // each at a multiple of 1024 bytes; then barriers.
  struct Shared {
    uint8_t* base;
    __device__ uint8_t* q() const { return base; }
    __device__ uint8_t* k(int stage) const { return base + (1 + stage) * kBoxes * kBoxBytes; }
    __device__ uint8_t* v(int stage) const {
      return base + ((1 + kStages) * kBoxes + stage * kValueBoxes) * kBoxBytes;
    }
    __device__ uint64_t* barrier(int i) const {
      return reinterpret_cast<uint64_t*>(v(kStages)) + i;
    }
    __device__ uint64_t* q_full() const { return barrier(0); }
    __device__ uint64_t* k_full(int stage) const { return barrier(1 + stage); }
    __device__ uint64_t* k_empty(int stage) const { return barrier(1 + kStages + stage); }
    __device__ uint64_t* v_full(int stage) const { return barrier(1 + 2 * kStages + stage); }
    __device__ uint64_t* v_empty(int stage) const { return barrier(1 + 3 * kStages + stage); }
  };

  // 128 tokens from `token` on of a head.
  static __device__ void CopyHead(uint8_t* to, const CUtensorMap* map, int boxes, int64_t head,
                                  int token, uint64_t* full) {
    ArriveAndExpect(full, static_cast<uint32_t>(boxes * kBoxBytes));
    for (int box = 0; box < boxes; ++box) {
      CopyBox(to + box * kBoxBytes, map, (static_cast<int>(head) * boxes + box) * kBoxColumns,
              token, full);
    }
  }

  static __device__ void CopyTiles(const AttentionMaps& maps, const DocumentTile& tile,
                                   int64_t head, int64_t key_head, const Shared& shared) {
    CopyHead(shared.q(), &maps.q, kBoxes, head, tile.begin + tile.first, shared.q_full());
    Ring ring{kStages};
    for (int first = 0; first <= tile.first; first += kTile, ring.Advance()) {
      const int stage = ring.stage, token = tile.begin + first;
      WaitForPhase(shared.k_empty(stage), ring.phase ^ 1);
      CopyHead(shared.k(stage), &maps.k, kBoxes, key_head, token, shared.k_full(stage));
      WaitForPhase(shared.v_empty(stage), ring.phase ^ 1);
      CopyHead(shared.v(stage), &maps.v, kValueBoxes, key_head, token, shared.v_full(stage));
    }
  }

  // scores = q k^T of this warpgroup's 64 queries, under way as a group.
  static __device__ void MultiplyByKeys(float (&scores)[kTile / 2], const uint8_t* q,
                                        const uint8_t* k) {
    const uint64_t q_tile = TileDescriptor(q), k_tile = TileDescriptor(k);
#pragma unroll
    for (int i = 0; i < kWidth / 16; ++i) {
      const int at = (i / 4 * kBoxBytes + i % 4 * 32) >> 4;
      MultiplyBF16<false>(scores, q_tile + at, k_tile + at, i > 0);
    }
    CommitWarpgroup();
  }

  // out += weights v, under way as a group.
  static __device__ void MultiplyByValues(float (&out)[kValueWidth / 2],
                                          const uint32_t (&weights)[kTile / 16][4],
                                          const uint8_t* v) {
    const uint64_t tile = TransposedDescriptor<kTile>(v);
#pragma unroll
    for (int i = 0; i < kTile / 16; ++i) {
      MultiplyBF16<true>(out, weights[i], tile + (i * 16 * kLineBytes >> 4), true);
    }
    CommitWarpgroup();
  }

  // Keys from `valid` on are another document's: their weight is 0, but 0 times what they hold need
  // not be.
  static __device__ void ClearValues(uint8_t* v, int valid) {
    for (int box = 0; box < kValueBoxes; ++box) {
      ClearLines(v + box * kBoxBytes, valid, kTile, kMultiplying * kWarpgroup);
    }
    FenceForTensorCores();
    SynchronizeThreads(1, kMultiplying * kWarpgroup);
  }

  static __device__ void Pack(uint32_t (&weights)[kTile / 16][4],
                              const float (&scores)[kTile / 2]) {
#pragma unroll
    for (int i = 0; i < kTile / 4; ++i) {
      weights[i / 4][i % 4] = PackPair(scores[2 * i], scores[2 * i + 1]);
    }
  }

  // The scores of a tile are under way with the product of the tile before it, whose weights lie in
  // other registers: while that goes on, the scores become weights.
  static __device__ void Attend(const AttentionParameters<bfloat16>& p, const DocumentTile& tile,
                                const Shared& shared) {
    const int thread = threadIdx.x - kWarpgroup, group = Uniform(thread / kWarpgroup);
    const int row = thread / kWarp * 16 + thread % kWarp / 4;  // this lane's first of the tile
    const bool speaks = thread % kWarp == 0;
    const uint8_t* q = shared.q() + group * (64 * kLineBytes);
    const float factor = p.scale * kLog2E;
    RowState state;
    float out[kValueWidth / 2], scores[kTile / 2], keep[2];
    uint32_t weights[kTile / 16][4];
#pragma unroll
    for (int i = 0; i < kValueWidth / 2; ++i) out[i] = 0;
    HoldRegisters(out);
    WaitForPhase(shared.q_full(), 0);
    Ring ring{kStages};
    WaitForPhase(shared.k_full(0), 0);
    HoldRegisters(scores);
    FenceWarpgroup();
    MultiplyByKeys(scores, q, shared.k(0));
    WaitWarpgroup<0>();
    HoldRegisters(scores);
    ArriveIf(speaks, shared.k_empty(0));
    if (tile.first == 0) MaskFuture<kEights>(scores, row);
    Weigh<kEights>(scores, state, keep, factor);
    Pack(weights, scores);
    for (int first = kTile; first <= tile.first; first += kTile) {
      const int before = Uniform(ring.stage);
      WaitForPhase(shared.v_full(before), ring.phase);
      ring.Advance();
      const int stage = Uniform(ring.stage);
      WaitForPhase(shared.k_full(stage), ring.phase);
      HoldRegisters(scores);
      HoldRegisters(out);
      FenceWarpgroup();
      MultiplyByKeys(scores, q, shared.k(stage));
      MultiplyByValues(out, weights, shared.v(before));
      WaitWarpgroup<1>();  // for the scores
      HoldRegisters(scores);
      ArriveIf(speaks, shared.k_empty(stage));
      if (first == tile.first) MaskFuture<kEights>(scores, row);
      Weigh<kEights>(scores, state, keep, factor);
      WaitWarpgroup<0>();
      HoldRegisters(out);
      ArriveIf(speaks, shared.v_empty(before));
#pragma unroll
      for (int i = 0; i < kValueWidth / 2; ++i) out[i] *= keep[i / 2 % 2];
      Pack(weights, scores);
    }
    const int last = Uniform(ring.stage);
    WaitForPhase(shared.v_full(last), ring.phase);
    if (tile.length - tile.first < kTile) ClearValues(shared.v(last), tile.length - tile.first);
    HoldRegisters(out);
    FenceWarpgroup();
    MultiplyByValues(out, weights, shared.v(last));
    WaitWarpgroup<0>();
    HoldRegisters(out);
    StoreResult<kValueWidth>(p, tile, tile.first + row, out, state);
  }
};

// Block (x, y): tile x from the end, so that the longest come first, and head y.
template <int kWidth, int kValueWidth>
__global__ void __launch_bounds__(kThreads, 1)
    attention_hopper_kernel(const __grid_constant__ AttentionMaps maps,
                            const __grid_constant__ AttentionParameters<bfloat16> p) {
  using Kernel = HopperAttention<kWidth, kValueWidth>;
  extern __shared__ uint8_t dynamic[];
  const DocumentTile tile = TileAt<kTile>(p.starts, p.sequences, gridDim.x - 1 - blockIdx.x);
  if (tile.length == 0) return;
  const uint32_t misaligned = SharedAddress(dynamic) % 1024;
  const typename Kernel::Shared shared{dynamic + (misaligned == 0 ? 0 : 1024 - misaligned)};
  if (threadIdx.x == 0) {
    InitBarrier(shared.q_full(), 1);
    for (int stage = 0; stage < kStages; ++stage) {
      InitBarrier(shared.k_full(stage), 1);
      InitBarrier(shared.v_full(stage), 1);
      InitBarrier(shared.k_empty(stage), kMultiplying * kWarpgroup / kWarp);
      InitBarrier(shared.v_empty(stage), kMultiplying * kWarpgroup / kWarp);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  const int64_t head = blockIdx.y;
  if (threadIdx.x < kWarpgroup) {
    KeepRegisters<24>();
    if (threadIdx.x == 0) Kernel::CopyTiles(maps, tile, head, head / p.queries_per_key, shared);
  } else {
    TakeRegisters<240>();
    Kernel::Attend(p, tile, shared);
  }
}

template <int kWidth, int kValueWidth>
absl::Status LaunchForward(Stream& stream, const AttentionArgs& args) {
  constexpr int kBytes = HopperAttention<kWidth, kValueWidth>::kSharedBytes;
  static_assert(kBytes <= 210 * 1024, "more shared memory than its budget");
  const auto p = ParametersOf<bfloat16>(args);
  AttentionMaps maps;
  ASSIGN_OR_RETURN(maps.q, MapOf(p.q, p.tokens, args.q.extent(1), kTile));
  ASSIGN_OR_RETURN(maps.k, MapOf(p.k, p.tokens, args.k.extent(1), kTile));
  ASSIGN_OR_RETURN(maps.v, MapOf(p.v, p.tokens, args.k.extent(1), kTile));
  const auto kernel = attention_hopper_kernel<kWidth, kValueWidth>;
  RETURN_IF_ERROR(
      StatusOf(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
               "asking for shared memory"));
  Launch(stream,
         {.blocks = NumAttentionTiles(p.tokens, p.sequences, kTile),
          .threads = kThreads,
          .shared_bytes = kBytes,
          .blocks_y = args.q.extent(1)},
         kernel, maps, p);
  return absl::OkStatus();
}

}  // namespace

bool AttentionByWgmma(Stream& stream, const AttentionArgs& args) {
  CudaStream& cuda = CudaStream::From(stream);
  const auto p = ParametersOf<bfloat16>(args);
  if (cuda.options().only_mma_sync || p.tokens == 0) return false;
  if (!p.q.is_aligned || !p.k.is_aligned || !p.v.is_aligned) return false;
  return ForHopperWidths(p.q.width, p.v.width, [&](auto width, auto value_width) {
    cuda.Note(LaunchForward<decltype(width)::value, decltype(value_width)::value>(stream, args));
  });
}

}  // namespace sluice::kernels::cuda
