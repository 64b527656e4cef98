// The kernel of HopperMatmul. One warpgroup copies tiles of a and b into a ring of stages; one or
// two others multiply them, 64 rows each. Two barriers a stage hand it over: `full` when its bytes
// have arrived, `empty` when every multiplying warp has read it.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/hopper_matmul.h"
#include "kernels/cuda/hopper_ptx.cuh"
#include "kernels/cuda/hopper_ring.cuh"
#include "kernels/cuda/hopper_tiles.cuh"
#include "kernels/cuda/hopper_wgmma.cuh"

namespace sluice::kernels::cuda {

inline constexpr int kStepBytes = 128;   // of K in a stage
inline constexpr int kScaleBlock = 128;  // columns of c that share a scale of b (kFp8Blocks)
inline constexpr int kTransposedBox = 64 * kStepBytes;  // bytes

struct HopperMatmulParameters {
  TileGrid grid;
  MatmulOutput output = MatmulOutput::kBF16;
  int num_stages = 0;
  const float *a_scales = nullptr, *b_scales = nullptr;  // kFp8Blocks
  int64_t a_scale_row = 0, a_scale_step = 0;
  void* c = nullptr;
  int64_t c_stride = 0;
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
  using Walk = TileWalk<kBlockM, kBlockN, kStepElements>;

  // Dynamic shared memory: all tiles of a, all tiles of b (each at a multiple of 1024 bytes, where
  // the swizzle's pattern starts), scales, barriers. A transposed tile is boxes of 64 rows or
  // columns, one behind the other, each with K from line to line.
  struct Shared {
    uint8_t* base;
    int num_stages;
    __device__ uint8_t* a(int stage) const { return base + stage * kABytes; }
    __device__ uint8_t* b(int stage) const { return base + num_stages * kABytes + stage * kBBytes; }
    __device__ float* a_scales(int stage) const {
      return reinterpret_cast<float*>(base + num_stages * (kABytes + kBBytes) +
                                      stage * kScaleBytes);
    }
    __device__ float* b_scales(int stage) const { return a_scales(stage) + kBlockM; }
    __device__ uint64_t* full(int stage) const {
      return reinterpret_cast<uint64_t*>(base + num_stages * kStageBytes) + stage;
    }
    __device__ uint64_t* empty(int stage) const { return full(num_stages + stage); }
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

  static __device__ void CopyTiles(const Maps& maps, const HopperMatmulParameters& p,
                                   const Shared& shared) {
    Ring ring{p.num_stages};
    Walk walk(p.grid, blockIdx.x, gridDim.x);
    for (Tile tile; walk.Next(tile);) {
      const int b_row =
          tile.column + (p.grid.grouping == MatmulGrouping::kRows ? tile.group * p.grid.n : 0);
      for (int i = 0; i < tile.num_steps; ++i, ring.Advance()) {
        const int stage = ring.stage, k = tile.first_k + i * kStepElements;
        WaitForPhase(shared.empty(stage), ring.phase ^ 1);
        uint64_t* full = shared.full(stage);
        ArriveAndExpect(full, kStageBytes);
        CopyTile(shared.a(stage), maps.a, kBlockM, tile.row, k, full);
        CopyTile(shared.b(stage), maps.b, kBlockN, b_row, k, full);
        if constexpr (kHasColumnScales) {
          CopyBox(shared.a_scales(stage), maps.a_scales, tile.row, k / kStepElements, full);
          CopyBox(shared.b_scales(stage), maps.b_scales, tile.column, k / kStepElements, full);
        }
      }
    }
  }

  // One step along K, not waited for. `sum` is added to, or overwritten.
  static __device__ void Multiply(float (&sum)[kBlockN / 2], const uint8_t* a, const uint8_t* b,
                                  bool accumulate) {
    constexpr int kAdvance = kIsTransposed ? 16 * 128 : 32;  // bytes, from product to product
    const uint64_t a_tile = kIsTransposed ? TransposedDescriptor<64>(a) : TileDescriptor(a);
    const uint64_t b_tile = kIsTransposed ? TransposedDescriptor<64>(b) : TileDescriptor(b);
    HoldRegisters(sum);
    FenceWarpgroup();
#pragma unroll
    for (int i = 0; i < kProductsPerStep; ++i) {
      const uint64_t a_part = a_tile + (i * kAdvance >> 4), b_part = b_tile + (i * kAdvance >> 4);
      if constexpr (kIsFp8) {
        MultiplyE4M3(sum, a_part, b_part, accumulate || i > 0);
      } else {
        MultiplyBF16<kIsTransposed>(sum, a_part, b_part, accumulate || i > 0);
      }
    }
    CommitWarpgroup();
    HoldRegisters(sum);
  }

  // kFp8Blocks: the scales of a thread's two rows and of its columns, read a step ahead.
  struct BlockScales {
    const float *upper_at = nullptr, *lower_at = nullptr, *b_at = nullptr;
    float upper = 0, lower = 0, of_b = 0;

    __device__ void Begin(const HopperMatmulParameters& p, const Tile& tile, int row) {
      if (tile.num_steps == 0) return;
      const int last = p.grid.m - 1;  // rows past it are not stored
      upper_at = p.a_scales + min(tile.row + row, last) * p.a_scale_row;
      lower_at = p.a_scales + min(tile.row + row + 8, last) * p.a_scale_row;
      const int64_t blocks = (p.grid.n + kScaleBlock - 1) / kScaleBlock;
      b_at = p.b_scales + (tile.group * blocks + tile.column / kScaleBlock) * p.grid.num_steps;
      upper = *upper_at, lower = *lower_at, of_b = *b_at;
    }
    __device__ void Advance(const HopperMatmulParameters& p) {
      upper = *(upper_at += p.a_scale_step);
      lower = *(lower_at += p.a_scale_step);
      of_b = *++b_at;
    }
  };

  // FP8: the tensor core's sum of 128 products has few bits (14 on H800, DeepSeek-V3 report section
  // 3.3.2), so each is scaled and added up in FP32.
  static __device__ void SumFp8(const HopperMatmulParameters& p, const Shared& shared,
                                const Tile& tile, int row, Ring& ring, float (&sum)[kBlockN / 2]) {
    const int lane = threadIdx.x % 32;
    BlockScales next;
    if constexpr (!kHasColumnScales) next.Begin(p, tile, row);
    for (int i = 0; i < tile.num_steps; ++i, ring.Advance()) {
      const int stage = ring.stage;
      float upper = next.upper, lower = next.lower;
      const float b_scale = next.of_b;
      WaitForPhase(shared.full(stage), ring.phase);
      if constexpr (kHasColumnScales) {
        upper = shared.a_scales(stage)[row];
        lower = shared.a_scales(stage)[row + 8];
      } else {
        if (i + 1 < tile.num_steps) next.Advance(p);
      }
      float product[kBlockN / 2];
      Multiply(product, shared.a(stage) + row / 64 * (64 * kStepBytes), shared.b(stage), false);
      WaitWarpgroup<0>();
      HoldRegisters(product);
#pragma unroll
      for (int j = 0; j < kBlockN / 8; ++j) {
        float left = b_scale, right = b_scale;
        if constexpr (kHasColumnScales) {
          const float* scales = shared.b_scales(stage) + 8 * j + 2 * (lane % 4);
          left = scales[0];
          right = scales[1];
        }
        sum[4 * j] = fmaf(upper * left, product[4 * j], sum[4 * j]);
        sum[4 * j + 1] = fmaf(upper * right, product[4 * j + 1], sum[4 * j + 1]);
        sum[4 * j + 2] = fmaf(lower * left, product[4 * j + 2], sum[4 * j + 2]);
        sum[4 * j + 3] = fmaf(lower * right, product[4 * j + 3], sum[4 * j + 3]);
      }
      __syncwarp();
      if (lane == 0) Arrive(shared.empty(stage));
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
    SynchronizeThreads(1, kThreadsHere);
  }

  // BF16: the tensor core adds in FP32. A stage is given back when the products after it are under
  // way, so that they never wait for each other.
  static __device__ void SumBF16(const Shared& shared, const Tile& tile, int row, Ring& ring,
                                 float (&sum)[kBlockN / 2]) {
    const bool speaks = threadIdx.x % 32 == 0;
    int last_stage = 0;
    for (int i = 0; i < tile.num_steps; ++i, ring.Advance()) {
      WaitForPhase(shared.full(ring.stage), ring.phase);
      if constexpr (kIsTransposed) {
        const int valid = tile.k_end - tile.first_k - i * kStepElements;
        if (valid < kStepElements) ClearTail(shared, ring.stage, valid);
      }
      Multiply(sum, shared.a(ring.stage) + row / 64 * (64 * kStepBytes), shared.b(ring.stage),
               true);
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

  // Four neighbouring columns of one row, those that exist.
  static __device__ void Store4(const HopperMatmulParameters& p, int group, int row, int column,
                                const float (&value)[4]) {
    int64_t at = row * p.c_stride + column;
    if (p.grid.grouping == MatmulGrouping::kContracted) at += group * p.grid.m * p.c_stride;
    const int element = p.output == MatmulOutput::kBF16 ? 2 : 4;
    const bool is_whole = column + 4 <= p.grid.n && p.c_stride % 4 == 0 &&
                          reinterpret_cast<uint64_t>(p.c) % (4 * element) == 0;
    if (p.output == MatmulOutput::kBF16) {
      __nv_bfloat16* c = static_cast<__nv_bfloat16*>(p.c) + at;
      if (is_whole) {
        const __nv_bfloat162 pair[2] = {__floats2bfloat162_rn(value[0], value[1]),
                                        __floats2bfloat162_rn(value[2], value[3])};
        *reinterpret_cast<uint2*>(c) = *reinterpret_cast<const uint2*>(pair);
      } else {
        for (int i = 0; i < 4 && column + i < p.grid.n; ++i) c[i] = __float2bfloat16_rn(value[i]);
      }
      return;
    }
    float* c = static_cast<float*>(p.c) + at;
    const bool adds = p.output == MatmulOutput::kAddToF32;
    if (is_whole) {
      float4 out = make_float4(value[0], value[1], value[2], value[3]);
      if (adds) {
        const float4 old = *reinterpret_cast<const float4*>(c);
        out = make_float4(old.x + out.x, old.y + out.y, old.z + out.z, old.w + out.w);
      }
      *reinterpret_cast<float4*>(c) = out;
    } else {
      for (int i = 0; i < 4 && column + i < p.grid.n; ++i) c[i] = (adds ? c[i] : 0) + value[i];
    }
  }

  // A thread holds two columns of each eight. Four lanes trade theirs of two neighbouring eights,
  // so that each has four columns side by side and a row's store fills sectors of 32 bytes.
  static __device__ void Store(const HopperMatmulParameters& p, const Tile& tile, int row,
                               const float (&sum)[kBlockN / 2]) {
    const int lane = threadIdx.x % 32, quad = lane % 4;
    const int first = lane - quad + 2 * (quad % 2);  // the lanes that hold what this one stores
#pragma unroll
    for (int j = 0; j < kBlockN / 8; j += 2) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float value[4];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float left = sum[4 * j + 2 * half + i], right = sum[4 * j + 4 + 2 * half + i];
#pragma unroll
          for (int from = 0; from < 2; ++from) {
            const float of_left = __shfl_sync(0xffffffffu, left, first + from);
            const float of_right = __shfl_sync(0xffffffffu, right, first + from);
            value[2 * from + i] = quad < 2 ? of_left : of_right;
          }
        }
        const int at = tile.row + row + 8 * half, column = tile.column + 8 * j + 4 * quad;
        if (at < tile.row_end && column < p.grid.n) Store4(p, tile.group, at, column, value);
      }
    }
  }

  static __device__ void MultiplyTiles(const HopperMatmulParameters& p, const Shared& shared) {
    const int thread = threadIdx.x - kWarpgroup;
    // Of the tile: this thread's first row; it has that and the one eight below.
    const int row = thread / 32 * 16 + thread % 32 / 4;
    Ring ring{p.num_stages};
    Walk walk(p.grid, blockIdx.x, gridDim.x);
    for (Tile tile; walk.Next(tile);) {
      float sum[kBlockN / 2];
#pragma unroll
      for (int i = 0; i < kBlockN / 2; ++i) sum[i] = 0;
      if constexpr (kIsFp8) {
        SumFp8(p, shared, tile, row, ring, sum);
      } else {
        SumBF16(shared, tile, row, ring, sum);
      }
      // An empty range of K adds nothing.
      if (tile.num_steps == 0 && p.output == MatmulOutput::kAddToF32) continue;
      Store(p, tile, row, sum);
    }
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
  const typename Kernel::Shared shared{dynamic + (misaligned == 0 ? 0 : 1024 - misaligned),
                                       p.num_stages};
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
