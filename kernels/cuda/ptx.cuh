// The instructions that C++ has no name for. The only inline PTX of the project.
#pragma once

#include <cstdint>

namespace sluice::kernels::cuda {

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

}  // namespace sluice::kernels::cuda
