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

// 16 bytes to c: those of its elements that exist.
template <bool kIsBF16>
__device__ void StoreUnit(const HopperResult& to, int64_t row, int column, const uint4& unit) {
  constexpr int kElements = kIsBF16 ? 8 : 4;
  const int64_t at = row * to.stride + column;
  const bool is_whole = column + kElements <= to.columns && to.stride % kElements == 0 &&
                        reinterpret_cast<uint64_t>(to.c) % 16 == 0;
  if constexpr (kIsBF16) {
    __nv_bfloat16* c = static_cast<__nv_bfloat16*>(to.c) + at;
    if (is_whole) {
      *reinterpret_cast<uint4*>(c) = unit;
      return;
    }
    const uint32_t pairs[4] = {unit.x, unit.y, unit.z, unit.w};
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      const auto bits = static_cast<uint16_t>(pairs[i / 2] >> 16 * (i % 2));
      if (column + i < to.columns) c[i] = __ushort_as_bfloat16(bits);
    }
  } else {
    float* c = static_cast<float*>(to.c) + at;
    const bool adds = to.output == MatmulOutput::kAddToF32;
    float4 out = make_float4(__uint_as_float(unit.x), __uint_as_float(unit.y),
                             __uint_as_float(unit.z), __uint_as_float(unit.w));
    if (is_whole) {
      if (adds) {
        const float4 old = *reinterpret_cast<const float4*>(c);
        out = make_float4(old.x + out.x, old.y + out.y, old.z + out.z, old.w + out.w);
      }
      *reinterpret_cast<float4*>(c) = out;
      return;
    }
    const float values[4] = {out.x, out.y, out.z, out.w};
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      if (column + i < to.columns) c[i] = (adds ? c[i] : 0) + values[i];
    }
  }
}

// Where the 16 bytes `unit` of a staged row lie: so that neither the writes (of BF16 4 bytes a
// lane, of FP32 8) nor the reads of a warp meet in a bank.
template <bool kIsBF16>
__device__ int StagedAt(int row, int unit) {
  return row * 128 + (unit ^ (kIsBF16 ? row % 8 : 2 * (row % 4))) * 16;
}

template <bool kIsBF16, int kCount>
__device__ void StoreRowsAs(const HopperResult& to, uint8_t* staging, const RowsOfWarp& rows,
                            const float (&sum)[kCount]) {
  constexpr int kColumns = kIsBF16 ? 64 : 32;
  const int lane = threadIdx.x % 32, upper = lane / 4, quad = lane % 4;
#pragma unroll
  for (int first = 0; first < 2 * kCount; first += kColumns) {
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
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
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 8 + 4 * i, unit = lane % 8;
      const int column = rows.column + first + kColumns / 8 * unit;
      if (row < rows.count && column < to.columns) {
        StoreUnit<kIsBF16>(to, rows.row + row, column,
                           *reinterpret_cast<const uint4*>(staging + StagedAt<kIsBF16>(row, unit)));
      }
    }
  }
}

// The sums of 16 rows and 2 kCount columns, those that exist.
template <int kCount>
__device__ void StoreRows(const HopperResult& to, uint8_t* staging, const RowsOfWarp& rows,
                          const float (&sum)[kCount]) {
  if (to.output == MatmulOutput::kBF16) {
    StoreRowsAs<true>(to, staging, rows, sum);
  } else {
    StoreRowsAs<false>(to, staging, rows, sum);
  }
}

}  // namespace sluice::kernels::cuda
