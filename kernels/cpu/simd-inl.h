// A vector of floats and the operations on it that the op loops are written with. Re-included for
// each target by foreach_target.h; no include guard.
//
//   F32           kLanes floats: 1, 8, 16
//   Load, Store   from and to float or BFloat16, no alignment asked for; with a count n in
//                 [0, kLanes], only the first n lanes (the others load as 0 and are not stored).
//                 BFloat16 is stored rounded to nearest even, subnormals kept.
//   Fma(a, b, c)  a * b + c, rounded once (scalar target: twice, for speed)
//   Fused(a, b, c)  a * b + c, rounded once on every target
//   Exp, Sigmoid, Silu, SiluSlope  those of kernels/core/exp.h, to the bit on every target
//   ReduceAdd     sums the lanes as a balanced tree: the same order every time
//
// Max and Min return the second operand if either is NaN.
//
// Lambdas do not inherit the target's options: keep them out of -inl files.

#define SLUICE_INLINE inline __attribute__((always_inline))

namespace sluice::kernels::cpu::SLUICE_TARGET {

#if SLUICE_WIDTH == 32

using F32 = float;
inline constexpr int kLanes = 1;

SLUICE_INLINE F32 Set(float x) { return x; }
SLUICE_INLINE F32 Load(const float* p) { return *p; }
SLUICE_INLINE F32 Load(const float* p, int n) { return n > 0 ? *p : 0.0f; }
SLUICE_INLINE F32 Load(const BFloat16* p) { return ToFloat(*p); }
SLUICE_INLINE F32 Load(const BFloat16* p, int n) { return n > 0 ? ToFloat(*p) : 0.0f; }
SLUICE_INLINE void Store(float* p, F32 x) { *p = x; }
SLUICE_INLINE void Store(float* p, F32 x, int n) {
  if (n > 0) *p = x;
}
SLUICE_INLINE void Store(BFloat16* p, F32 x) { *p = ToBFloat16(x); }
SLUICE_INLINE void Store(BFloat16* p, F32 x, int n) {
  if (n > 0) *p = ToBFloat16(x);
}
SLUICE_INLINE F32 Add(F32 a, F32 b) { return a + b; }
SLUICE_INLINE F32 Sub(F32 a, F32 b) { return a - b; }
SLUICE_INLINE F32 Mul(F32 a, F32 b) { return a * b; }
SLUICE_INLINE F32 Div(F32 a, F32 b) { return a / b; }
SLUICE_INLINE F32 Fma(F32 a, F32 b, F32 c) { return a * b + c; }
SLUICE_INLINE F32 Fused(F32 a, F32 b, F32 c) { return __builtin_fmaf(a, b, c); }
SLUICE_INLINE F32 Max(F32 a, F32 b) { return a > b ? a : b; }
SLUICE_INLINE F32 Min(F32 a, F32 b) { return a < b ? a : b; }
SLUICE_INLINE F32 Sqrt(F32 a) { return __builtin_sqrtf(a); }
SLUICE_INLINE float ReduceAdd(F32 a) { return a; }
SLUICE_INLINE float ReduceMax(F32 a) { return a; }
SLUICE_INLINE F32 PowerOf2(int exponent) { return std::bit_cast<float>((exponent + 127) << 23); }
// x * 2^n for a whole n in [-250, 250].
SLUICE_INLINE F32 ScaleByPowerOf2(F32 x, F32 n) {
  const int exponent = n != n ? 0 : static_cast<int>(n), half = exponent / 2;
  return x * PowerOf2(half) * PowerOf2(exponent - half);
}

#elif SLUICE_WIDTH == 256

using F32 = __m256;
inline constexpr int kLanes = 8;

SLUICE_INLINE __m256i LaneMask(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
SLUICE_INLINE F32 FromBFloat16Bits(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
SLUICE_INLINE __m128i ToBFloat16Bits(F32 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  rounded = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  const __m256i packed = _mm256_packus_epi32(rounded, rounded);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}

SLUICE_INLINE F32 Set(float x) { return _mm256_set1_ps(x); }
SLUICE_INLINE F32 Load(const float* p) { return _mm256_loadu_ps(p); }
SLUICE_INLINE F32 Load(const float* p, int n) { return _mm256_maskload_ps(p, LaneMask(n)); }
SLUICE_INLINE F32 Load(const BFloat16* p) {
  return FromBFloat16Bits(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
SLUICE_INLINE F32 Load(const BFloat16* p, int n) {
  uint16_t lanes[8] = {};
  std::memcpy(lanes, p, static_cast<size_t>(n) * 2);
  return FromBFloat16Bits(_mm_loadu_si128(reinterpret_cast<const __m128i*>(lanes)));
}
SLUICE_INLINE void Store(float* p, F32 x) { _mm256_storeu_ps(p, x); }
SLUICE_INLINE void Store(float* p, F32 x, int n) { _mm256_maskstore_ps(p, LaneMask(n), x); }
SLUICE_INLINE void Store(BFloat16* p, F32 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), ToBFloat16Bits(x));
}
SLUICE_INLINE void Store(BFloat16* p, F32 x, int n) {
  uint16_t lanes[8];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(lanes), ToBFloat16Bits(x));
  std::memcpy(p, lanes, static_cast<size_t>(n) * 2);
}
SLUICE_INLINE F32 Add(F32 a, F32 b) { return _mm256_add_ps(a, b); }
SLUICE_INLINE F32 Sub(F32 a, F32 b) { return _mm256_sub_ps(a, b); }
SLUICE_INLINE F32 Mul(F32 a, F32 b) { return _mm256_mul_ps(a, b); }
SLUICE_INLINE F32 Div(F32 a, F32 b) { return _mm256_div_ps(a, b); }
SLUICE_INLINE F32 Fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
SLUICE_INLINE F32 Fused(F32 a, F32 b, F32 c) { return Fma(a, b, c); }
SLUICE_INLINE F32 Max(F32 a, F32 b) { return _mm256_max_ps(a, b); }
SLUICE_INLINE F32 Min(F32 a, F32 b) { return _mm256_min_ps(a, b); }
SLUICE_INLINE F32 Sqrt(F32 a) { return _mm256_sqrt_ps(a); }
SLUICE_INLINE float ReduceAdd(F32 a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
SLUICE_INLINE float ReduceMax(F32 a) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
SLUICE_INLINE F32 PowerOf2(__m256i exponent) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_add_epi32(exponent, _mm256_set1_epi32(127)), 23));
}
SLUICE_INLINE F32 ScaleByPowerOf2(F32 x, F32 n) {
  const __m256i exponent = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(exponent, 1);
  return _mm256_mul_ps(_mm256_mul_ps(x, PowerOf2(half)),
                       PowerOf2(_mm256_sub_epi32(exponent, half)));
}

#elif SLUICE_WIDTH == 512

using F32 = __m512;
inline constexpr int kLanes = 16;

SLUICE_INLINE __mmask16 LaneMask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
SLUICE_INLINE F32 FromBFloat16Bits(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
SLUICE_INLINE __m256i ToBFloat16Bits(F32 x) {
#if SLUICE_HAS_BF16_DOT
  // The instruction flushes subnormals: vectors that hold any go the long way.
  constexpr int kSubnormal = 0x20;
  if (__builtin_expect(_mm512_fpclass_ps_mask(x, kSubnormal) == 0, 1)) {
    return (__m256i)_mm512_cvtneps_pbh(x);
  }
#endif
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i result = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(result, 16));
}

SLUICE_INLINE F32 Set(float x) { return _mm512_set1_ps(x); }
SLUICE_INLINE F32 Load(const float* p) { return _mm512_loadu_ps(p); }
SLUICE_INLINE F32 Load(const float* p, int n) { return _mm512_maskz_loadu_ps(LaneMask(n), p); }
SLUICE_INLINE F32 Load(const BFloat16* p) {
  return FromBFloat16Bits(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
SLUICE_INLINE F32 Load(const BFloat16* p, int n) {
  return FromBFloat16Bits(_mm256_maskz_loadu_epi16(LaneMask(n), p));
}
SLUICE_INLINE void Store(float* p, F32 x) { _mm512_storeu_ps(p, x); }
SLUICE_INLINE void Store(float* p, F32 x, int n) { _mm512_mask_storeu_ps(p, LaneMask(n), x); }
SLUICE_INLINE void Store(BFloat16* p, F32 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), ToBFloat16Bits(x));
}
SLUICE_INLINE void Store(BFloat16* p, F32 x, int n) {
  _mm256_mask_storeu_epi16(p, LaneMask(n), ToBFloat16Bits(x));
}
SLUICE_INLINE F32 Add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
SLUICE_INLINE F32 Sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
SLUICE_INLINE F32 Mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
SLUICE_INLINE F32 Div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
SLUICE_INLINE F32 Fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
SLUICE_INLINE F32 Fused(F32 a, F32 b, F32 c) { return Fma(a, b, c); }
SLUICE_INLINE F32 Max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
SLUICE_INLINE F32 Min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
SLUICE_INLINE F32 Sqrt(F32 a) { return _mm512_sqrt_ps(a); }
SLUICE_INLINE float ReduceAdd(F32 a) { return _mm512_reduce_add_ps(a); }
SLUICE_INLINE float ReduceMax(F32 a) { return _mm512_reduce_max_ps(a); }
SLUICE_INLINE F32 ScaleByPowerOf2(F32 x, F32 n) { return _mm512_scalef_ps(x, n); }

#endif

SLUICE_INLINE F32 Zero() { return Set(0.0f); }

// The steps of kernels/core/exp.h.
SLUICE_INLINE F32 Exp(F32 x) {
  x = Max(Set(-104.0f), Min(Set(89.0f), x));  // NaN stays: it is the second operand
  const F32 shift = Set(0x1.8p23f);
  const F32 n = Sub(Fused(x, Set(1.44269504088896341f), shift), shift);
  F32 r = Fused(n, Set(-0.693359375f), x);
  r = Fused(n, Set(2.12194440e-4f), r);
  F32 p = Set(1.9875691500e-4f);
  p = Fused(p, r, Set(1.3981999507e-3f));
  p = Fused(p, r, Set(8.3334519073e-3f));
  p = Fused(p, r, Set(4.1665795894e-2f));
  p = Fused(p, r, Set(1.6666665459e-1f));
  p = Fused(p, r, Set(5.0000001201e-1f));
  p = Fused(p, Mul(r, r), r);
  return ScaleByPowerOf2(Add(p, Set(1.0f)), n);
}

SLUICE_INLINE F32 OnePlusExpOfMinus(F32 x) { return Add(Set(1.0f), Exp(Sub(Zero(), x))); }
SLUICE_INLINE F32 Sigmoid(F32 x) { return Div(Set(1.0f), OnePlusExpOfMinus(x)); }
SLUICE_INLINE F32 Silu(F32 x) { return Div(x, OnePlusExpOfMinus(x)); }
SLUICE_INLINE F32 SiluSlope(F32 x, F32 s) { return Mul(s, Fused(x, Sub(Set(1.0f), s), Set(1.0f))); }

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
