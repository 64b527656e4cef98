// Layouts that the blocks of attention are multiplied in. A matrix of rows (tokens) by columns
// (width) is cut into 32-bit units along one of the two: floats, or pairs of bf16 (kPairs).

namespace sluice::kernels::cpu::SLUICE_TARGET {

// `rows` rows of `width` elements of one head.
template <typename T>
struct HeadRows {
  const T* data = nullptr;
  int64_t stride = 0, rows = 0, width = 0;
};

template <bool kPairs>
SLUICE_INLINE int64_t UnitsOf(int64_t elements) {
  return kPairs ? (elements + 1) / 2 : elements;
}

SLUICE_INLINE uint32_t WordOf(float x) { return std::bit_cast<uint32_t>(x); }
SLUICE_INLINE uint32_t WordOf(BFloat16 x) { return uint32_t{x.bits} << 16; }  // as a float

// Unit u of a row of `width` elements, cut along the row.
template <bool kPairs, typename T>
SLUICE_INLINE uint32_t UnitAlongRow(const T* row, int64_t u, int64_t width) {
  if constexpr (kPairs) {
    const uint32_t high = 2 * u + 1 < width ? row[2 * u + 1].bits : 0u;
    return row[2 * u].bits | high << 16;
  } else {
    return WordOf(row[u]);
  }
}

// Unit u of column c, cut along the rows.
template <bool kPairs, typename T>
SLUICE_INLINE uint32_t UnitAlongColumn(const HeadRows<T>& from, int64_t u, int64_t c) {
  if constexpr (kPairs) {
    const uint32_t low = 2 * u < from.rows ? from.data[2 * u * from.stride + c].bits : 0u;
    const uint32_t high =
        2 * u + 1 < from.rows ? from.data[(2 * u + 1) * from.stride + c].bits : 0u;
    return low | high << 16;
  } else {
    return u < from.rows ? WordOf(from.data[u * from.stride + c]) : 0u;
  }
}

// to[r, u], units along the row.
template <bool kPairs, typename T>
inline void PackRows(const HeadRows<T>& from, uint32_t* to) {
  const int64_t units = UnitsOf<kPairs>(from.width);
  for (int64_t r = 0; r < from.rows; ++r) {
    const T* row = from.data + r * from.stride;
    for (int64_t u = 0; u < units; ++u)
      to[r * units + u] = UnitAlongRow<kPairs>(row, u, from.width);
  }
}

// to[u, r], units along the row; rows up to kAttentionBlock are zero.
template <bool kPairs, typename T>
inline void PackRowsTransposed(const HeadRows<T>& from, uint32_t* to) {
  const int64_t units = UnitsOf<kPairs>(from.width);
  for (int64_t r = 0; r < from.rows; ++r) {
    const T* row = from.data + r * from.stride;
    for (int64_t u = 0; u < units; ++u) {
      to[u * kAttentionBlock + r] = UnitAlongRow<kPairs>(row, u, from.width);
    }
  }
  for (int64_t u = 0; u < units; ++u) {
    for (int64_t r = from.rows; r < kAttentionBlock; ++r) to[u * kAttentionBlock + r] = 0;
  }
}

// to[u, c], units along the columns, for `rows` rows of which those past the end are zero, and
// `stride` >= width columns of which those past the end are zero.
template <bool kPairs, typename T>
inline void PackColumns(const HeadRows<T>& from, int64_t rows, int64_t stride, uint32_t* to) {
  for (int64_t u = 0; u < UnitsOf<kPairs>(rows); ++u) {
    for (int64_t c = 0; c < from.width; ++c) {
      to[u * stride + c] = UnitAlongColumn<kPairs>(from, u, c);
    }
    for (int64_t c = from.width; c < stride; ++c) to[u * stride + c] = 0;
  }
}

// to[c, u], units along the columns, for `rows` rows of which those past the end are zero.
template <bool kPairs, typename T>
inline void PackColumnsTransposed(const HeadRows<T>& from, int64_t rows, uint32_t* to) {
  const int64_t units = UnitsOf<kPairs>(rows);
  for (int64_t u = 0; u < units; ++u) {
    for (int64_t c = 0; c < from.width; ++c) {
      to[c * units + u] = UnitAlongColumn<kPairs>(from, u, c);
    }
  }
}

SLUICE_INLINE void StoreElement(float* to, float x) { *to = x; }
SLUICE_INLINE void StoreElement(BFloat16* to, float x) { *to = ToBFloat16(x); }

// to[r, c] = from[c, r] * factor[r]; from has kAttentionBlock columns.
template <typename T>
inline void UnpackTransposed(const float* from, const float* factor, int64_t rows, int64_t width,
                             T* to, int64_t to_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < width; ++c) {
      StoreElement(to + r * to_stride + c, from[c * kAttentionBlock + r] * factor[r]);
    }
  }
}

// Two vectors of floats as bf16 units (low, high).
template <bool kPairs>
SLUICE_INLINE void StoreUnits(uint32_t* to, F32 low, F32 high) {
#if SLUICE_HAS_BF16_DOT
  if constexpr (kPairs) {
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, halves));
    return;
  }
#endif
  Store(reinterpret_cast<float*>(to), low);
  Store(reinterpret_cast<float*>(to) + kAttentionBlock, high);
}

// A vector of floats as units along the vector: kLanes words, or half as many (kPairs).
template <bool kPairs>
SLUICE_INLINE void StoreAlong(uint32_t* to, F32 x) {
#if SLUICE_HAS_BF16_DOT
  if constexpr (kPairs) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(x));
    return;
  }
#endif
  Store(reinterpret_cast<float*>(to), x);
}

// bound[kAttentionBlock + i - j] is +infinity where query i of a block may see key j of the same
// block, -infinity elsewhere; 2 * kAttentionBlock floats.
inline void FillCausalBound(float* bound) {
  for (int64_t x = 0; x < 2 * kAttentionBlock; ++x) {
    const float infinity = __builtin_inff();
    bound[x] = x >= kAttentionBlock ? infinity : -infinity;
  }
}

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
