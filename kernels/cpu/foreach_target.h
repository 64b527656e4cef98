// Compiles SLUICE_TARGET_FILE (an <op>-inl.h) once per instruction set, each time inside the
// namespace sluice::kernels::cpu::<target> and after simd-inl.h. Include it last, from one .cc:
// every header that the -inl files need must have been included before, because an inline function
// first seen under a target's options could be the copy that the linker keeps for the whole
// program, and machines without that target would stop at it. Not guarded: a .cc may define another
// SLUICE_TARGET_FILE and include it again.

// GCC takes the undefined don't-care operands inside its own intrinsics for uninitialised
// variables.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#include <cstdint>
#include <cstring>

#include "kernels/core/dtype.h"
#include "kernels/cpu/target.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Inside the included files:
//   SLUICE_TARGET         the namespace: scalar, avx2, avx512, avx512bf16
//   SLUICE_WIDTH          bits of a vector register: 32, 256, 512, 512
//   SLUICE_HAS_BF16_DOT   1 if vdpbf16ps exists

#define SLUICE_TARGET scalar
#define SLUICE_WIDTH 32
#define SLUICE_HAS_BF16_DOT 0
#include "kernels/cpu/simd-inl.h"
#include SLUICE_TARGET_FILE
#undef SLUICE_TARGET
#undef SLUICE_WIDTH
#undef SLUICE_HAS_BF16_DOT

#if defined(__x86_64__)

#define SLUICE_TARGET avx2
#define SLUICE_WIDTH 256
#define SLUICE_HAS_BF16_DOT 0
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include "kernels/cpu/simd-inl.h"
#include SLUICE_TARGET_FILE
#pragma GCC pop_options
#undef SLUICE_TARGET
#undef SLUICE_WIDTH
#undef SLUICE_HAS_BF16_DOT

#define SLUICE_TARGET avx512
#define SLUICE_WIDTH 512
#define SLUICE_HAS_BF16_DOT 0
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prfchw,prefer-vector-width=512")
#include "kernels/cpu/simd-inl.h"
#include SLUICE_TARGET_FILE
#pragma GCC pop_options
#undef SLUICE_TARGET
#undef SLUICE_WIDTH
#undef SLUICE_HAS_BF16_DOT

#define SLUICE_TARGET avx512bf16
#define SLUICE_WIDTH 512
#define SLUICE_HAS_BF16_DOT 1
#pragma GCC push_options
#pragma GCC target( \
    "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,prfchw,prefer-vector-width=512")
#include "kernels/cpu/simd-inl.h"
#include SLUICE_TARGET_FILE
#pragma GCC pop_options
#undef SLUICE_TARGET
#undef SLUICE_WIDTH
#undef SLUICE_HAS_BF16_DOT

#endif  // __x86_64__

#undef SLUICE_TARGET_FILE

// SLUICE_TABLE_OF(kTable, target): the constant `kTable` that the -inl file defined for `target`.
#ifndef SLUICE_TABLE_OF
#if defined(__x86_64__)
#define SLUICE_TABLE_OF(table, target)                 \
  ((target) == Target::kAvx512Bf16 ? avx512bf16::table \
   : (target) == Target::kAvx512   ? avx512::table     \
   : (target) == Target::kAvx2     ? avx2::table       \
                                   : scalar::table)
#else
#define SLUICE_TABLE_OF(table, target) (static_cast<void>(target), scalar::table)
#endif
#endif
