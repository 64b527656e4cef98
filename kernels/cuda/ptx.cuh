// Instructions that C++ has no name for, of any GPU since compute capability 8.0 (E4M3: 8.9). With
// hopper_ptx.cuh the only inline PTX of the project.
#pragma once

#include <cstdint>

namespace sluice::kernels::cuda {

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 2^x within 2 units in the last place; 0 below 2^-126. exp2f costs three instructions more, which
// save what is smaller.
__device__ inline float PowerOfTwo(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Four matrices of 8 x 8 elements of 16 bits: lanes 8 m to 8 m + 7 give the addresses of the rows
// of matrix m, 16 bytes each, and x[m] becomes elements 2 (lane % 4) and the next of row lane / 4
// (PTX ISA 9.7.14.5.15).
__device__ inline void LoadMatrices(uint32_t (&x)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(SharedAddress(row))
               : "memory");
}
// The same with each matrix transposed: of column lane / 4.
__device__ inline void LoadTransposed(uint32_t (&x)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// d += a b of a warp: a 16 x 16 row-major, b 16 x 8 column-major, bf16 with FP32 sums. With g =
// lane / 4 and t = lane % 4 (PTX ISA 9.7.14.5.8): a[0..3] hold rows g, g + 8, g, g + 8 at columns 2
// t (the first two) and 2 t + 8, two neighbours each; b[0..1] column g at rows 2 t and 2 t + 8;
// d[0..3] rows g (twice) and g + 8 at columns 2 t, 2 t + 1.
__device__ inline void MultiplyAccumulate(float (&d)[4], const uint32_t (&a)[4],
                                          const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same for 32 codes of E4M3: a 16 x 32, b 32 x 8; a register holds four neighbours along K.
__device__ inline void MultiplyAccumulateE4M3(float (&d)[4], const uint32_t (&a)[4],
                                              const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace sluice::kernels::cuda
