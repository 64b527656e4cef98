// How the warps that multiply on Hopper write their sums: a warp passes its 16 rows through 2 KiB
// of shared memory of its own, from the order of wgmma's registers (hopper_wgmma.cuh) to rows, so
// that what it writes to device memory is 16 bytes a lane and whole sectors.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/hopper_matmul.h"

namespace sluice::kernels::cuda {

inline constexpr int kStagingBytes = 16 * 128;  // 16 rows of 64 BF16 or 32 FP32 numbers

struct HopperResult {
  MatmulOutput output = MatmulOutput::kBF16;
  void* c = nullptr;
  int64_t stride = 0;  // elements
  int columns = 0;
};

// The first row and column of a warp's 16 rows, and how many of the rows are there.
struct RowsOfWarp {
  int64_t row = 0;
  int count = 0, column = 0;
};

// Whether the 16 bytes of c from a column on are all there, and at a multiple of 16.
template <bool kIsBF16>
__device__ bool IsWhole(const HopperResult& to, int column) {
  constexpr int kElements = kIsBF16 ? 8 : 4;
  return column + kElements <= to.columns && to.stride % kElements == 0 &&
         reinterpret_cast<uint64_t>(to.c) % 16 == 0;
}

// 16 bytes to c: those of its elements that exist.
__device__ inline void StoreUnit(const HopperResult& to, int64_t row, int column,
                                 const uint4& unit) {
  __nv_bfloat16* c = static_cast<__nv_bfloat16*>(to.c) + row * to.stride + column;
  if (IsWhole<true>(to, column)) {
    *reinterpret_cast<uint4*>(c) = unit;
    return;
  }
  const uint32_t pairs[4] = {unit.x, unit.y, unit.z, unit.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const auto bits = static_cast<uint16_t>(pairs[i / 2] >> 16 * (i % 2));
    if (column + i < to.columns) c[i] = __ushort_as_bfloat16(bits);
  }
}

// What c holds where StoreUnit will add: it is read early, for it takes long. Zeros where nothing
// is added or to be read.
__device__ inline float4 OldUnit(const HopperResult& to, int64_t row, int column) {
  float old[4] = {0, 0, 0, 0};
  if (to.output != MatmulOutput::kAddToF32) return make_float4(0, 0, 0, 0);
  const float* c = static_cast<const float*>(to.c) + row * to.stride + column;
  if (IsWhole<false>(to, column)) return *reinterpret_cast<const float4*>(c);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (column + i < to.columns) old[i] = c[i];
  }
  return make_float4(old[0], old[1], old[2], old[3]);
}

__device__ inline void StoreUnit(const HopperResult& to, int64_t row, int column,
                                 const float4& value) {
  float* c = static_cast<float*>(to.c) + row * to.stride + column;
  if (IsWhole<false>(to, column)) {
    *reinterpret_cast<float4*>(c) = value;
    return;
  }
  const float values[4] = {value.x, value.y, value.z, value.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (column + i < to.columns) c[i] = values[i];
  }
}

// Where the 16 bytes `unit` of a staged row lie: so that neither the writes (of BF16 4 bytes a
// lane, of FP32 8) nor the reads of a warp meet in a bank.
template <bool kIsBF16>
__device__ int StagedAt(int row, int unit) {
  return row * 128 + (unit ^ (kIsBF16 ? row % 8 : 2 * (row % 4))) * 16;
}

// Columns from `first` on of a warp's sums, into its shared memory.
template <bool kIsBF16, int kCount>
__device__ void Stage(uint8_t* staging, int first, const float (&sum)[kCount]) {
  const int lane = threadIdx.x % 32, upper = lane / 4, quad = lane % 4;
#pragma unroll
  for (int j = 0; j < (kIsBF16 ? 8 : 4); ++j) {
    const float* of_eight = sum + 4 * (first / 8 + j);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = upper + 8 * half;
      const float left = of_eight[2 * half], right = of_eight[2 * half + 1];
      if constexpr (kIsBF16) {
        *reinterpret_cast<__nv_bfloat162*>(staging + StagedAt<true>(row, j) + 4 * quad) =
            __floats2bfloat162_rn(left, right);
      } else {
        *reinterpret_cast<float2*>(staging + StagedAt<false>(row, 2 * j + quad / 2) +
                                   8 * (quad % 2)) = make_float2(left, right);
      }
    }
  }
}

template <int kCount>
__device__ void StoreRowsBF16(const HopperResult& to, uint8_t* staging, const RowsOfWarp& rows,
                              const float (&sum)[kCount]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int first = 0; first < 2 * kCount; first += 64) {
    __syncwarp();  // the rows before have been read
    Stage<true>(staging, first, sum);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 8 + 4 * i, unit = lane % 8, column = rows.column + first + 8 * unit;
      if (row < rows.count && column < to.columns) {
        StoreUnit(to, rows.row + row, column,
                  *reinterpret_cast<const uint4*>(staging + StagedAt<true>(row, unit)));
      }
    }
  }
}

template <int kCount>
__device__ void StoreRowsF32(const HopperResult& to, uint8_t* staging, const RowsOfWarp& rows,
                             const float (&sum)[kCount]) {
  const int lane = threadIdx.x % 32, upper = lane / 8, unit = lane % 8;
  const auto read = [&](int first, float4(&old)[4]) {
    const int column = rows.column + first + 4 * unit;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = upper + 4 * i;
      if (row < rows.count && column < to.columns) old[i] = OldUnit(to, rows.row + row, column);
    }
  };
  float4 next[4] = {};
  read(0, next);
#pragma unroll
  for (int first = 0; first < 2 * kCount; first += 32) {
    float4 old[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) old[i] = next[i];
    if (first + 32 < 2 * kCount) read(first + 32, next);
    __syncwarp();  // the rows before have been read
    Stage<false>(staging, first, sum);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = upper + 4 * i, column = rows.column + first + 4 * unit;
      if (row >= rows.count || column >= to.columns) continue;
      const float4 x = *reinterpret_cast<const float4*>(staging + StagedAt<false>(row, unit));
      StoreUnit(to, rows.row + row, column,
                make_float4(old[i].x + x.x, old[i].y + x.y, old[i].z + x.z, old[i].w + x.w));
    }
  }
}

// The sums of 16 rows and 2 kCount columns, those that exist.
template <int kCount>
__device__ void StoreRows(const HopperResult& to, uint8_t* staging, const RowsOfWarp& rows,
                          const float (&sum)[kCount]) {
  if (to.output == MatmulOutput::kBF16) {
    StoreRowsBF16(to, staging, rows, sum);
  } else {
    StoreRowsF32(to, staging, rows, sum);
  }
}

}  // namespace sluice::kernels::cuda
