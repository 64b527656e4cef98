// E4M3 codes to and from vectors of floats, with the bits of ToE4M3 and ToFloat (dtype.h).
//
//   StoreE4M3(p, x), LoadE4M3(p)   with a count n in [0, kLanes]: only the first n lanes
//   Abs(x), InverseScale, ScaleOf  see docs/fp8.md

namespace sluice::kernels::cpu::SLUICE_TARGET {

#if SLUICE_WIDTH == 32

SLUICE_INLINE F32 Abs(F32 x) { return __builtin_fabsf(x); }
SLUICE_INLINE void StoreE4M3(uint8_t* p, F32 x) { *p = ToE4M3(x).bits; }
SLUICE_INLINE void StoreE4M3(uint8_t* p, F32 x, int n) {
  if (n > 0) *p = ToE4M3(x).bits;
}
SLUICE_INLINE F32 LoadE4M3(const uint8_t* p) { return ToFloat(E4M3{*p}); }
SLUICE_INLINE F32 LoadE4M3(const uint8_t* p, int n) { return n > 0 ? ToFloat(E4M3{*p}) : 0.0f; }

#elif SLUICE_WIDTH == 256

SLUICE_INLINE F32 Abs(F32 x) {
  return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
}

SLUICE_INLINE __m256i CodesOf(F32 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i sign = _mm256_and_si256(_mm256_srli_epi32(bits, 24), _mm256_set1_epi32(0x80));
  const F32 magnitude = Abs(x);
  const F32 clipped = Min(magnitude, Set(kMaxE4M3));
  const __m256i m = _mm256_castps_si256(clipped);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(m, 20), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(m, _mm256_set1_epi32(0x7ffff)), odd), 20);
  const __m256i normal = _mm256_sub_epi32(rounded, _mm256_set1_epi32(120 << 3));
  const __m256i small = _mm256_sub_epi32(_mm256_castps_si256(Add(clipped, Set(0x1p14f))),
                                         _mm256_set1_epi32(141 << 23));
  const F32 is_small = _mm256_cmp_ps(clipped, Set(0x1p-6f), _CMP_LT_OQ);
  __m256i code = _mm256_blendv_epi8(normal, small, _mm256_castps_si256(is_small));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  code = _mm256_blendv_epi8(code, _mm256_set1_epi32(0x7f), nan);
  return _mm256_or_si256(code, sign);
}

SLUICE_INLINE __m128i CodeBytes(F32 x) {
  const __m256i codes = CodesOf(x);
  const __m128i words =
      _mm_packus_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
  return _mm_packus_epi16(words, words);
}
SLUICE_INLINE void StoreE4M3(uint8_t* p, F32 x) {
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), CodeBytes(x));
}
SLUICE_INLINE void StoreE4M3(uint8_t* p, F32 x, int n) {
  uint8_t lanes[8];
  _mm_storel_epi64(reinterpret_cast<__m128i*>(lanes), CodeBytes(x));
  std::memcpy(p, lanes, static_cast<size_t>(n));
}

SLUICE_INLINE F32 FloatsOf(__m128i bytes) {
  const __m256i codes = _mm256_cvtepu8_epi32(bytes);
  const __m256i m = _mm256_and_si256(codes, _mm256_set1_epi32(0x7f));
  const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(codes, _mm256_set1_epi32(0x80)), 24);
  const __m256i normal = _mm256_add_epi32(_mm256_slli_epi32(m, 20), _mm256_set1_epi32(120 << 23));
  const F32 small = Mul(_mm256_cvtepi32_ps(m), Set(0x1p-9f));
  __m256i value = _mm256_blendv_epi8(normal, _mm256_castps_si256(small),
                                     _mm256_cmpgt_epi32(_mm256_set1_epi32(8), m));
  value = _mm256_blendv_epi8(value, _mm256_set1_epi32(0x7fc00000),
                             _mm256_cmpeq_epi32(m, _mm256_set1_epi32(0x7f)));
  return _mm256_castsi256_ps(_mm256_or_si256(value, sign));
}
SLUICE_INLINE F32 LoadE4M3(const uint8_t* p) {
  return FloatsOf(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
SLUICE_INLINE F32 LoadE4M3(const uint8_t* p, int n) {
  uint8_t lanes[8] = {};
  std::memcpy(lanes, p, static_cast<size_t>(n));
  return LoadE4M3(lanes);
}

#elif SLUICE_WIDTH == 512

SLUICE_INLINE F32 Abs(F32 x) { return _mm512_abs_ps(x); }

SLUICE_INLINE __m128i CodeBytes(F32 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i sign = _mm512_and_si512(_mm512_srli_epi32(bits, 24), _mm512_set1_epi32(0x80));
  const F32 clipped = Min(Abs(x), Set(kMaxE4M3));
  const __m512i m = _mm512_castps_si512(clipped);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(m, 20), _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(m, _mm512_set1_epi32(0x7ffff)), odd), 20);
  const __m512i normal = _mm512_sub_epi32(rounded, _mm512_set1_epi32(120 << 3));
  const __m512i small = _mm512_sub_epi32(_mm512_castps_si512(Add(clipped, Set(0x1p14f))),
                                         _mm512_set1_epi32(141 << 23));
  const __mmask16 is_small = _mm512_cmp_ps_mask(clipped, Set(0x1p-6f), _CMP_LT_OQ);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  __m512i code = _mm512_mask_mov_epi32(normal, is_small, small);
  code = _mm512_mask_mov_epi32(code, nan, _mm512_set1_epi32(0x7f));
  return _mm512_cvtepi32_epi8(_mm512_or_si512(code, sign));
}
SLUICE_INLINE void StoreE4M3(uint8_t* p, F32 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), CodeBytes(x));
}
SLUICE_INLINE void StoreE4M3(uint8_t* p, F32 x, int n) {
  _mm_mask_storeu_epi8(p, LaneMask(n), CodeBytes(x));
}

SLUICE_INLINE F32 FloatsOf(__m128i bytes) {
  const __m512i codes = _mm512_cvtepu8_epi32(bytes);
  const __m512i m = _mm512_and_si512(codes, _mm512_set1_epi32(0x7f));
  const __m512i sign = _mm512_slli_epi32(_mm512_and_si512(codes, _mm512_set1_epi32(0x80)), 24);
  const __m512i normal = _mm512_add_epi32(_mm512_slli_epi32(m, 20), _mm512_set1_epi32(120 << 23));
  const F32 small = Mul(_mm512_cvtepi32_ps(m), Set(0x1p-9f));
  __m512i value = _mm512_mask_mov_epi32(normal, _mm512_cmplt_epi32_mask(m, _mm512_set1_epi32(8)),
                                        _mm512_castps_si512(small));
  value = _mm512_mask_mov_epi32(value, _mm512_cmpeq_epi32_mask(m, _mm512_set1_epi32(0x7f)),
                                _mm512_set1_epi32(0x7fc00000));
  return _mm512_castsi512_ps(_mm512_or_si512(value, sign));
}
SLUICE_INLINE F32 LoadE4M3(const uint8_t* p) {
  return FloatsOf(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
SLUICE_INLINE F32 LoadE4M3(const uint8_t* p, int n) {
  return FloatsOf(_mm_maskz_loadu_epi8(LaneMask(n), p));
}

#endif

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
