// Squares of kLanes x kLanes 32-bit words, transposed in registers.

namespace sluice::kernels::cpu::SLUICE_TARGET {

#if SLUICE_WIDTH == 32

SLUICE_INLINE void TransposeSquare(F32 (&)[kLanes]) {}

#elif SLUICE_WIDTH == 256

SLUICE_INLINE F32 LowPairs(F32 a, F32 b) {
  return _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}
SLUICE_INLINE F32 HighPairs(F32 a, F32 b) {
  return _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}

// Lane i of r[j] and lane j of r[i] change places.
SLUICE_INLINE void TransposeSquare(F32 (&r)[kLanes]) {
  F32 t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    r[i] = LowPairs(t[i], t[i + 2]);
    r[i + 1] = HighPairs(t[i], t[i + 2]);
    r[i + 2] = LowPairs(t[i + 1], t[i + 3]);
    r[i + 3] = HighPairs(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const F32 low = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    r[i] = low;
  }
}

#elif SLUICE_WIDTH == 512

SLUICE_INLINE F32 LowPairs(F32 a, F32 b) {
  return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
SLUICE_INLINE F32 HighPairs(F32 a, F32 b) {
  return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

// Lane i of r[j] and lane j of r[i] change places.
SLUICE_INLINE void TransposeSquare(F32 (&r)[kLanes]) {
  F32 t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = LowPairs(t[i], t[i + 2]);
    r[i + 1] = HighPairs(t[i], t[i + 2]);
    r[i + 2] = LowPairs(t[i + 1], t[i + 3]);
    r[i + 3] = HighPairs(t[i + 1], t[i + 3]);
  }
  // 0x88 takes the even quarters of both, 0xdd the odd ones.
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

#endif

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
