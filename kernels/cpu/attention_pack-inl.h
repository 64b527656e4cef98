// Layouts that the blocks of attention are multiplied in. A matrix of rows (tokens) by columns
// (width) is cut into 32-bit units along one of the two: floats, or pairs of bf16 (kPairs).

namespace sluice::kernels::cpu::SLUICE_TARGET {

// `rows` rows of `width` elements of one head, `stride` elements apart.
template <typename T>
struct HeadRows {
  const T* data = nullptr;
  int64_t stride = 0, rows = 0, width = 0;
};

// Rows [first, first + rows) of one head of a [T, heads, width] view.
template <typename T>
inline HeadRows<T> RowsOfHead(const ConstTensorView& view, int64_t first, int64_t rows,
                              int64_t head) {
  const int64_t width = view.extent(2);
  return {.data = view.data<T>() + first * view.row_stride() + head * width,
          .stride = view.row_stride(),
          .rows = rows,
          .width = width};
}

template <bool kPairs>
SLUICE_INLINE int64_t UnitsOf(int64_t elements) {
  return kPairs ? (elements + 1) / 2 : elements;
}

// The two ways to cut a matrix into units, as matrices of words that are read a vector at a time.
// Words outside the matrix are zero.

// Word (i, j) is unit j of row i.
template <bool kPairs, typename T>
struct UnitsAlongRows {
  HeadRows<T> from;

  // n words from (i, j) on.
  SLUICE_INLINE F32 LoadWords(int64_t i, int64_t j, int n) const {
    if (i >= from.rows) return Zero();
    const T* row = from.data + i * from.stride;
#if SLUICE_HAS_BF16_DOT
    if constexpr (kPairs) {
      const int64_t left = from.width - 2 * j;
      const int64_t halves = left < 2 * n ? left : 2 * n;  // a last odd one alone
      const __mmask32 mask = static_cast<__mmask32>((uint64_t{1} << halves) - 1);
      return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, row + 2 * j));
    }
#endif
    return Load(row + j, n);
  }
};

// Word (i, j) is unit i of column j.
template <bool kPairs, typename T>
struct UnitsAlongColumns {
  HeadRows<T> from;

  SLUICE_INLINE F32 LoadWords(int64_t i, int64_t j, int n) const {
#if SLUICE_HAS_BF16_DOT
    if constexpr (kPairs) {
      if (2 * i >= from.rows) return Zero();
      const BFloat16* row = from.data + 2 * i * from.stride + j;
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(LaneMask(n), row));
      if (2 * i + 1 >= from.rows) return _mm512_castsi512_ps(low);
      const __m512i high =
          _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(LaneMask(n), row + from.stride));
      return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
#endif
    return i < from.rows ? Load(from.data + i * from.stride + j, n) : Zero();
  }
};

SLUICE_INLINE int LanesLeft(int64_t left) {
  return left < kLanes ? static_cast<int>(left) : kLanes;
}

SLUICE_INLINE void StoreWords(uint32_t* to, F32 words, int n) {
  Store(reinterpret_cast<float*>(to), words, n);
}

// to[i, j] = word (i, j), for `rows` rows and `columns` columns; columns up to the next whole
// vector are zero where `stride` leaves room for them.
template <typename Words>
inline void CopyWords(const Words& words, int64_t rows, int64_t columns, int64_t stride,
                      uint32_t* to) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; j += kLanes) {
      const int n = LanesLeft(columns - j);
      StoreWords(to + i * stride + j, words.LoadWords(i, j, n), LanesLeft(stride - j));
    }
  }
}

// to[j, i] = word (i, j), for `rows` rows (a multiple of kLanes) and `columns` columns.
template <typename Words>
inline void TransposeWords(const Words& words, int64_t rows, int64_t columns, int64_t stride,
                           uint32_t* to) {
  for (int64_t i = 0; i < rows; i += kLanes) {
    for (int64_t j = 0; j < columns; j += kLanes) {
      const int n = LanesLeft(columns - j);
      F32 square[kLanes];
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) square[k] = words.LoadWords(i + k, j, n);
      TransposeSquare(square);
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) {
        if (k < n) StoreWords(to + (j + k) * stride + i, square[k], kLanes);
      }
    }
  }
}

// to[r, u], units along the row.
template <bool kPairs, typename T>
inline void PackRows(const HeadRows<T>& from, uint32_t* to) {
  const int64_t units = UnitsOf<kPairs>(from.width);
  CopyWords(UnitsAlongRows<kPairs, T>{from}, from.rows, units, units, to);
}

// to[u, r], units along the row; rows up to kAttentionBlock are zero.
template <bool kPairs, typename T>
inline void PackRowsTransposed(const HeadRows<T>& from, uint32_t* to) {
  TransposeWords(UnitsAlongRows<kPairs, T>{from}, kAttentionBlock, UnitsOf<kPairs>(from.width),
                 kAttentionBlock, to);
}

// to[u, c], units along the columns, for `rows` rows of which those past the end are zero; `stride`
// is the width rounded up to whole vectors, filled with zeros.
template <bool kPairs, typename T>
inline void PackColumns(const HeadRows<T>& from, int64_t rows, int64_t stride, uint32_t* to) {
  CopyWords(UnitsAlongColumns<kPairs, T>{from}, UnitsOf<kPairs>(rows), from.width, stride, to);
}

// to[c, u], units along the columns, for `rows` rows (a multiple of kAttentionBlock) of which those
// past the end are zero.
template <bool kPairs, typename T>
inline void PackColumnsTransposed(const HeadRows<T>& from, int64_t rows, uint32_t* to) {
  const int64_t units = UnitsOf<kPairs>(rows);
  TransposeWords(UnitsAlongColumns<kPairs, T>{from}, units, from.width, units, to);
}

// to[r, c] = from[c, r] * factor[r], for `rows` rows and `width` columns; from has kAttentionBlock
// columns, factor as many elements.
template <typename T>
inline void UnpackTransposed(const float* from, const float* factor, const HeadRows<T>& to) {
  T* data = const_cast<T*>(to.data);
  for (int64_t r = 0; r < to.rows; r += kLanes) {
    const int rows = LanesLeft(to.rows - r);
    for (int64_t c = 0; c < to.width; c += kLanes) {
      const int columns = LanesLeft(to.width - c);
      F32 square[kLanes];
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) {
        square[k] = k < columns ? Load(from + (c + k) * kAttentionBlock + r) : Zero();
      }
      TransposeSquare(square);
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) {
        if (k < rows) {
          Store(data + (r + k) * to.stride + c, Mul(square[k], Set(factor[r + k])), columns);
        }
      }
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
