// The kernel of HopperMatmul. One warpgroup copies tiles of a and b into a ring of stages; one or
// two others multiply them, 64 rows each. Two barriers a stage hand it over: `full` when its bytes
// have arrived, `empty` when every multiplying warp has read it.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/hopper_matmul.h"
#include "kernels/cuda/hopper_ptx.cuh"
#include "kernels/cuda/hopper_ring.cuh"
#include "kernels/cuda/hopper_scales.cuh"
#include "kernels/cuda/hopper_store.cuh"
#include "kernels/cuda/hopper_tiles.cuh"
#include "kernels/cuda/hopper_wgmma.cuh"

namespace sluice::kernels::cuda {

inline constexpr int kStepBytes = 128;                  // of K in a stage
inline constexpr int kTransposedBox = 64 * kStepBytes;  // bytes

struct HopperMatmulParameters {
  TileGrid grid;
  int num_stages = 0;
  BlockScalePlaces scales;  // kFp8Blocks
  HopperResult result;
};

template <MatmulOperands kOperands, int kBlockM, int kBlockN>
struct HopperMatmulKernel {
  static constexpr bool kIsTransposed = kOperands == MatmulOperands::kBF16Columns;
  static constexpr bool kIsFp8 = kOperands != MatmulOperands::kBF16 && !kIsTransposed;
  static constexpr bool kHasColumnScales = kOperands == MatmulOperands::kFp8Columns;
  static constexpr int kElementBytes = kIsFp8 ? 1 : 2;
  static constexpr int kStepElements = kStepBytes / kElementBytes;
  static constexpr int kProductsPerStep = 4;         // wgmma contracts 32 bytes
  static constexpr int kMultiplying = kBlockM / 64;  // warpgroups
  static constexpr int kThreads = kWarpgroup * (1 + kMultiplying);
  static constexpr int kABytes = kBlockM * kStepBytes, kBBytes = kBlockN * kStepBytes;
  static constexpr int kScaleBytes = kHasColumnScales ? 4 * (kBlockM + kBlockN) : 0;
  static constexpr uint32_t kStageBytes = kABytes + kBBytes + kScaleBytes;
  static constexpr int kStagePitch = (kStageBytes + 1023) / 1024 * 1024;
  static constexpr int kHeadBytes = 1024 + 4 * kMultiplying * kStagingBytes;
  // FP8 of 256 columns is multiplied in halves, so that sums and products fit into the registers.
  static constexpr int kParts = kIsFp8 && kBlockN == 256 ? 2 : 1;
  static constexpr int kPartN = kBlockN / kParts;
  // Two warpgroups whose steps are alike fall into step, and the tensor cores wait while both scale
  // and add, unless they take turns to multiply.
  static constexpr int kTailBarrier = 1, kTurnBarrier = 2;
  static constexpr bool kTakesTurns = kIsFp8 && kParts == 1 && kMultiplying == 2;
  using Walk = TileWalk<kBlockM, kBlockN, kStepElements>;
  using Sums = float[kParts][kPartN / 2];

  // Dynamic shared memory, from a multiple of 1024 bytes on: barriers, what multiplying warps write
  // their results through, and the stages, each a tile of a, one of b (both where the swizzle's
  // pattern starts) and scales. A transposed tile is boxes of 64 rows or columns, one behind the
  // other, each with K from line to line.
  struct Shared {
    uint8_t* base;
    __device__ uint64_t* full(int stage) const { return reinterpret_cast<uint64_t*>(base) + stage; }
    __device__ uint64_t* empty(int stage) const { return full(kMaxStages + stage); }
    __device__ uint8_t* staging(int warp) const { return base + 1024 + warp * kStagingBytes; }
    __device__ uint8_t* a(int stage) const { return base + kHeadBytes + stage * kStagePitch; }
    __device__ uint8_t* b(int stage) const { return a(stage) + kABytes; }
    __device__ float* a_scales(int stage) const {
      return reinterpret_cast<float*>(b(stage) + kBBytes);
    }
    __device__ float* b_scales(int stage) const { return a_scales(stage) + kBlockM; }
  };

  struct Maps {
    const CUtensorMap *a, *b, *a_scales, *b_scales;
  };

  // A tile of a or b whose first row or column is `at`; step along K from k on.
  static __device__ void CopyTile(uint8_t* to, const CUtensorMap* map, int rows, int at, int k,
                                  uint64_t* full) {
    if constexpr (kIsTransposed) {
      for (int box = 0; box < rows / 64; ++box) {
        CopyBox(to + box * kTransposedBox, map, at + 64 * box, k, full);
      }
    } else {
      CopyBox(to, map, k, at, full);
    }
  }

  // Where along K a tile is, if K has parts: each begins with a step of its own.
  struct StepOfPart {
    int part = 0, step = 0;
    __device__ void Advance(const TileGrid& grid) {
      if (++step < grid.steps_of_part) return;
      step = 0;
      ++part;
    }
  };

  static __device__ void CopyTiles(const Maps& maps, const HopperMatmulParameters& p,
                                   const Shared& shared) {
    Ring ring{p.num_stages};
    Walk walk(p.grid, blockIdx.x, gridDim.x);
    for (Tile tile; walk.Next(tile);) {
      const int b_row =
          tile.column +
          (p.grid.grouping == MatmulGrouping::kRows ? tile.group * p.grid.b_group_rows : 0);
      StepOfPart at;
      for (int i = 0; i < tile.num_steps; ++i, ring.Advance(), at.Advance(p.grid)) {
        const int stage = ring.stage, k = tile.first_k + i * kStepElements;
        WaitForPhase(shared.empty(stage), ring.phase ^ 1);
        uint64_t* full = shared.full(stage);
        ArriveAndExpect(full, kStageBytes);
        if constexpr (kOperands == MatmulOperands::kFp8Blocks) {
          const int k_of_part = at.step * kStepElements;
          CopyBox(shared.a(stage), maps.a, k_of_part, at.part, tile.row, full);
          CopyBox(shared.b(stage), maps.b, k_of_part, at.part, b_row, full);
        } else {
          CopyTile(shared.a(stage), maps.a, kBlockM, tile.row, k, full);
          CopyTile(shared.b(stage), maps.b, kBlockN, b_row, k, full);
        }
        if constexpr (kHasColumnScales) {
          CopyBox(shared.a_scales(stage), maps.a_scales, tile.row, k / kStepElements, full);
          CopyBox(shared.b_scales(stage), maps.b_scales, tile.column, k / kStepElements, full);
        }
      }
    }
  }

  // One step along K, not waited for. `sum` is added to, or overwritten. Tiles by the descriptors
  // of their first bytes.
  template <int kCount>
  static __device__ void Multiply(float (&sum)[kCount], uint64_t a, uint64_t b, bool accumulate) {
    constexpr int kAdvance = kIsTransposed ? 16 * 128 : 32;  // bytes, from product to product
    HoldRegisters(sum);
    FenceWarpgroup();
#pragma unroll
    for (int i = 0; i < kProductsPerStep; ++i) {
      const uint64_t a_part = MovedDescriptor(a, i * kAdvance);
      const uint64_t b_part = MovedDescriptor(b, i * kAdvance);
      if constexpr (kIsFp8) {
        MultiplyE4M3(sum, a_part, b_part, accumulate || i > 0);
      } else {
        MultiplyBF16<kIsTransposed>(sum, a_part, b_part, accumulate || i > 0);
      }
    }
    CommitWarpgroup();
    HoldRegisters(sum);
  }

  // A warpgroup may multiply when the other has begun to.
  static __device__ void TakeTurn(int warpgroup) {
    if constexpr (kTakesTurns) SynchronizeThreads(kTurnBarrier + warpgroup, 2 * kWarpgroup);
  }
  static __device__ void PassTurn(int warpgroup) {
    if constexpr (kTakesTurns) PassBarrier(kTurnBarrier + 1 - warpgroup, 2 * kWarpgroup);
  }

  // The descriptors of stage 0: of the 64 rows of a that a warpgroup multiplies, and of b.
  struct Operands {
    const int warpgroup;
    uint64_t a, b;
    __device__ Operands(const Shared& shared, int warpgroup) : warpgroup(warpgroup) {
      const uint8_t* rows = shared.a(0) + warpgroup * (64 * kStepBytes);
      a = kIsTransposed ? TransposedDescriptor<64>(rows) : TileDescriptor(rows);
      b = kIsTransposed ? TransposedDescriptor<64>(shared.b(0)) : TileDescriptor(shared.b(0));
    }
  };

  // FP8: the tensor core's sum of 128 products has few bits (14 on H800, DeepSeek-V3 report section
  // 3.3.2), so each is scaled and added up in FP32. While the tensor cores multiply for this
  // warpgroup, it reads the next scales and waits for the next stage; while it scales and adds,
  // they multiply for the other one.
  static __device__ void SumFp8(const HopperMatmulParameters& p, const Shared& shared,
                                const Operands& operands, const Tile& tile, int row, Ring& ring,
                                Sums& sum) {
    if (tile.num_steps == 0) return;
    const bool speaks = threadIdx.x % 32 == 0;
    BlockScales<kBlockN> scales;
    if constexpr (!kHasColumnScales) scales.Begin(p.scales, p.grid, tile, row);
    WaitForPhase(shared.full(ring.stage), ring.phase);
    for (int i = 0; i < tile.num_steps; ++i) {
      const int stage = ring.stage;
      const bool is_last = i + 1 == tile.num_steps;
      ScalePairs<kBlockN> pairs;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        float product[kPartN / 2];
        TakeTurn(operands.warpgroup);
        Multiply(product, MovedDescriptor(operands.a, stage * kStagePitch),
                 MovedDescriptor(operands.b, stage * kStagePitch + part * kPartN * kStepBytes),
                 false);
        PassTurn(operands.warpgroup);
        if (!kHasColumnScales && part == 0) {
          pairs = scales.Pairs();
          if (!is_last) scales.Advance(p.scales);
        }
        if (part + 1 == kParts) {
          ring.Advance();
          if (!is_last) WaitForPhase(shared.full(ring.stage), ring.phase);
        }
        WaitWarpgroup<0>();
        HoldRegisters(product);
        if constexpr (kHasColumnScales) {
          const float* of_rows = shared.a_scales(stage) + row;
          AddScaledColumns(sum[part], product, of_rows[0], of_rows[8],
                           shared.b_scales(stage) + part * kPartN);
          __syncwarp();
        }
        if (part + 1 == kParts && speaks) Arrive(shared.empty(stage));
        if constexpr (!kHasColumnScales) {
          if (part == 0) {
            AddScaled<0>(sum[part], product, pairs);
          } else {
            AddScaled<kPartN / 64>(sum[part], product, pairs);
          }
        }
      }
    }
  }

  // The lines of a stage from `valid` on are another group's: zeros in their place, for all
  // multiplying warps. What is written here the tensor cores and the next copy see.
  static __device__ void ClearTail(const Shared& shared, int stage, int valid) {
    constexpr int kThreadsHere = kMultiplying * kWarpgroup;
    for (int box = 0; box < kBlockM / 64; ++box) {
      ClearLines(shared.a(stage) + box * kTransposedBox, valid, 64, kThreadsHere);
    }
    for (int box = 0; box < kBlockN / 64; ++box) {
      ClearLines(shared.b(stage) + box * kTransposedBox, valid, 64, kThreadsHere);
    }
    FenceForTensorCores();
    SynchronizeThreads(kTailBarrier, kThreadsHere);
  }

  // BF16: the tensor core adds in FP32. A stage is given back when the products after it are under
  // way, so that they never wait for each other.
  static __device__ void SumBF16(const Shared& shared, const Operands& operands, const Tile& tile,
                                 Ring& ring, float (&sum)[kBlockN / 2]) {
    const bool speaks = threadIdx.x % 32 == 0;
    int last_stage = 0;
    for (int i = 0; i < tile.num_steps; ++i, ring.Advance()) {
      WaitForPhase(shared.full(ring.stage), ring.phase);
      if constexpr (kIsTransposed) {
        const int valid = tile.k_end - tile.first_k - i * kStepElements;
        if (valid < kStepElements) ClearTail(shared, ring.stage, valid);
      }
      Multiply(sum, MovedDescriptor(operands.a, ring.stage * kStagePitch),
               MovedDescriptor(operands.b, ring.stage * kStagePitch), true);
      if (i > 0) {
        WaitWarpgroup<1>();
        if (speaks) Arrive(shared.empty(last_stage));
      }
      last_stage = ring.stage;
    }
    WaitWarpgroup<0>();
    HoldRegisters(sum);
    if (tile.num_steps > 0 && speaks) Arrive(shared.empty(last_stage));
  }

  static __device__ void MultiplyTiles(const HopperMatmulParameters& p, const Shared& shared) {
    // The same in all lanes, as the compiler sees by this.
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0) - kWarpgroup / 32;
    const int row = 16 * warp + threadIdx.x % 32 / 4;  // of a tile: this thread's, and that + 8
    const Operands operands(shared, warp / 4);
    Ring ring{p.num_stages};
    Walk walk(p.grid, blockIdx.x, gridDim.x);
    if (operands.warpgroup == 1) PassTurn(1);  // the first has the first turn
    for (Tile tile; walk.Next(tile);) {
      Sums sum;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
#pragma unroll
        for (int i = 0; i < kPartN / 2; ++i) sum[part][i] = 0;
      }
      if constexpr (kIsFp8) {
        SumFp8(p, shared, operands, tile, row, ring, sum);
      } else {
        SumBF16(shared, operands, tile, ring, sum[0]);
      }
      // An empty range of K adds nothing.
      if (tile.num_steps == 0 && p.result.output == MatmulOutput::kAddToF32) continue;
      const int first = tile.row + 16 * warp;
      int64_t to_row = first;
      if (p.grid.grouping == MatmulGrouping::kContracted) {
        to_row += static_cast<int64_t>(tile.group) * p.grid.m;
      }
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        StoreRows(p.result, shared.staging(warp),
                  {to_row, tile.row_end - first, tile.column + part * kPartN}, sum[part]);
      }
    }
    if (operands.warpgroup == 0) TakeTurn(0);  // passed to it after the last
  }
};

template <MatmulOperands kOperands, int kBlockM, int kBlockN>
__global__ void __launch_bounds__(HopperMatmulKernel<kOperands, kBlockM, kBlockN>::kThreads, 1)
    hopper_matmul_kernel(const __grid_constant__ CUtensorMap a,
                         const __grid_constant__ CUtensorMap b,
                         const __grid_constant__ CUtensorMap a_scales,
                         const __grid_constant__ CUtensorMap b_scales,
                         const __grid_constant__ HopperMatmulParameters p) {
  using Kernel = HopperMatmulKernel<kOperands, kBlockM, kBlockN>;
  extern __shared__ uint8_t dynamic[];
  const uint32_t misaligned = SharedAddress(dynamic) % 1024;
  const typename Kernel::Shared shared{dynamic + (misaligned == 0 ? 0 : 1024 - misaligned)};
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < p.num_stages; ++stage) {
      InitBarrier(shared.full(stage), 1);
      InitBarrier(shared.empty(stage), Kernel::kMultiplying * kWarpgroup / 32);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    KeepRegisters<40>();
    if (threadIdx.x == 0) Kernel::CopyTiles({&a, &b, &a_scales, &b_scales}, p, shared);
  } else {
    TakeRegisters<232>();
    Kernel::MultiplyTiles(p, shared);
  }
}

}  // namespace sluice::kernels::cuda
