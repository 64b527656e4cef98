#include "kernels/cpu/peak_loop.h"

#include "kernels/cpu/target.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sluice::kernels::cpu {
namespace {

constexpr int kChains = 16;  // independent sums: more than latency times throughput

#if defined(__x86_64__)

__attribute__((target("avx512f"))) void Fma512(int64_t iterations) {
  __m512 sums[kChains], x = _mm512_set1_ps(1.0f);
#pragma GCC unroll 16
  for (auto& sum : sums) {
    sum = x;
    asm volatile("" : "+v"(sum));  // or sixteen equal sums would become one
  }
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (auto& sum : sums) sum = _mm512_fmadd_ps(x, x, sum);
  }
#pragma GCC unroll 16
  for (auto& sum : sums) asm volatile("" ::"v"(sum));
}

__attribute__((target("avx512f,avx512bf16"))) void Dot512(int64_t iterations) {
  __m512 sums[kChains], x = _mm512_set1_ps(1.0f);
#pragma GCC unroll 16
  for (auto& sum : sums) {
    sum = x;
    asm volatile("" : "+v"(sum));  // or sixteen equal sums would become one
  }
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (auto& sum : sums) {
      sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(x));
    }
  }
#pragma GCC unroll 16
  for (auto& sum : sums) asm volatile("" ::"v"(sum));
}

__attribute__((target("avx2,fma"))) void Fma256(int64_t iterations) {
  __m256 sums[12], x = _mm256_set1_ps(1.0f);
#pragma GCC unroll 16
  for (auto& sum : sums) {
    sum = x;
    asm volatile("" : "+x"(sum));
  }
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (auto& sum : sums) sum = _mm256_fmadd_ps(x, x, sum);
  }
#pragma GCC unroll 16
  for (auto& sum : sums) asm volatile("" ::"x"(sum));
}

#endif

void MulAddScalar(int64_t iterations) {
  float sums[kChains] = {};
  for (int64_t i = 0; i < iterations; ++i) {
    for (float& sum : sums) {
      sum = sum * 1.0f + 1.0f;
      asm volatile("" : "+m"(sum));
    }
  }
}

}  // namespace

int64_t RunPeakLoop(DType dtype, int64_t iterations) {
#if defined(__x86_64__)
  const Target best = AvailableTargets().back();
  if (best == Target::kAvx512Bf16 && dtype == DType::kBF16) {
    Dot512(iterations);
    return iterations * kChains * 64;
  }
  if (best >= Target::kAvx512) {
    Fma512(iterations);
    return iterations * kChains * 32;
  }
  if (best == Target::kAvx2) {
    Fma256(iterations);
    return iterations * 12 * 16;
  }
#endif
  static_cast<void>(dtype);
  MulAddScalar(iterations);
  return iterations * kChains * 2;
}

}  // namespace sluice::kernels::cpu
