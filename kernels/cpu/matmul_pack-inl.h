// Packing of both operands; layouts in matmul_layout.h and below.

namespace sluice::kernels::cpu::SLUICE_TARGET {

enum class Operand : uint8_t { kF32, kBF16 };

#if SLUICE_WIDTH != 512

// Element (k, column) as the bits that one half of a pair, or one float, is made of.
inline uint32_t BitsAt(const PackSource& s, int64_t k, int64_t column) {
  const int64_t index = s.transposed ? column * s.stride + k : k * s.stride + column;
  if (s.packed_dtype == DType::kF32) {
    return std::bit_cast<uint32_t>(static_cast<const float*>(s.data)[index]);
  }
  if (s.dtype == DType::kBF16) return static_cast<const BFloat16*>(s.data)[index].bits;
  return ToBFloat16(static_cast<const float*>(s.data)[index]).bits;
}

inline void PackUnit(const PackSource& s, int64_t unit, int64_t column, uint32_t* out) {
  for (int64_t i = 0; i < kPanelColumns; ++i, ++column) {
    uint32_t word = 0;
    if (column < s.n && s.packed_dtype == DType::kF32) word = BitsAt(s, unit, column);
    if (column < s.n && s.packed_dtype == DType::kBF16) {
      word = BitsAt(s, 2 * unit, column);
      if (2 * unit + 1 < s.k) word |= BitsAt(s, 2 * unit + 1, column) << 16;
    }
    out[i] = word;
  }
}

inline void InterleavePairs(const BFloat16* __restrict even, const BFloat16* __restrict odd,
                            uint32_t* __restrict out) {
  for (int i = 0; i < kPanelColumns; ++i) out[i] = even[i].bits | uint32_t{odd[i].bits} << 16;
}

// Element by element, but for what the weight gradient packs in every step: full panels of a matrix
// that is neither transposed nor converted.
inline void PackPanels(const PackSource& s, const PackPart& part, uint32_t* packed) {
  const int64_t units = NumUnits(s.k, s.packed_dtype);
  const bool is_plain = !s.transposed && s.dtype == s.packed_dtype;
  for (int64_t unit = part.unit_begin; unit < part.unit_end; ++unit) {
    for (int64_t panel = part.panel_begin; panel < part.panel_end; ++panel) {
      const int64_t column = panel * kPanelColumns;
      uint32_t* out = packed + (panel * units + unit) * kPanelColumns;
      if (!is_plain || column + kPanelColumns > s.n) {
        PackUnit(s, unit, column, out);
      } else if (s.dtype == DType::kF32) {
        std::memcpy(out, static_cast<const float*>(s.data) + unit * s.stride + column,
                    kPanelColumns * 4);
      } else if (2 * unit + 1 < s.k) {
        const BFloat16* even = static_cast<const BFloat16*>(s.data) + 2 * unit * s.stride + column;
        InterleavePairs(even, even + s.stride, out);
      } else {
        PackUnit(s, unit, column, out);
      }
    }
  }
}

#else

enum class PackKind : uint8_t { kF32, kBF16, kF32ToBF16 };

SLUICE_INLINE __mmask32 WideMask(int64_t n) {
  return n >= 32 ? 0xffffffffu : n <= 0 ? 0u : (1u << n) - 1u;
}
SLUICE_INLINE __mmask16 NarrowMask(int64_t n) { return static_cast<__mmask16>(WideMask(n)); }

// 16 units of one stored row that runs along k, from `unit` on; zero past the end.
template <PackKind kKind>
SLUICE_INLINE __m512i LoadUnits(const void* row, int64_t unit, int64_t k) {
  if constexpr (kKind == PackKind::kF32) {
    return _mm512_maskz_loadu_epi32(NarrowMask(k - unit), static_cast<const float*>(row) + unit);
  } else if constexpr (kKind == PackKind::kBF16) {
    return _mm512_maskz_loadu_epi16(WideMask(k - 2 * unit),
                                    static_cast<const BFloat16*>(row) + 2 * unit);
  } else {
    const float* p = static_cast<const float*>(row) + 2 * unit;
    const int64_t left = k - 2 * unit;
    const __m256i low = ToBFloat16Bits(_mm512_maskz_loadu_ps(NarrowMask(left), p));
    const __m256i high = ToBFloat16Bits(_mm512_maskz_loadu_ps(NarrowMask(left - 16), p + 16));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
}

// 16 columns of one unit, from a matrix stored with rows along n.
template <PackKind kKind>
SLUICE_INLINE __m512i LoadColumns(const PackSource& s, int64_t unit, int64_t column) {
  const __mmask16 mask = NarrowMask(s.n - column);
  if constexpr (kKind == PackKind::kF32) {
    return _mm512_maskz_loadu_epi32(mask,
                                    static_cast<const float*>(s.data) + unit * s.stride + column);
  } else {
    const __mmask16 odd_mask = 2 * unit + 1 < s.k ? mask : 0;
    const int64_t index = 2 * unit * s.stride + column;
    __m256i even, odd;
    if constexpr (kKind == PackKind::kBF16) {
      const BFloat16* p = static_cast<const BFloat16*>(s.data) + index;
      even = _mm256_maskz_loadu_epi16(mask, p);
      odd = _mm256_maskz_loadu_epi16(odd_mask, p + s.stride);
    } else {
      const float* p = static_cast<const float*>(s.data) + index;
      even = ToBFloat16Bits(_mm512_maskz_loadu_ps(mask, p));
      odd = ToBFloat16Bits(_mm512_maskz_loadu_ps(odd_mask, p + s.stride));
    }
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even),
                           _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
  }
}

// r[i] word j <-> r[j] word i.
SLUICE_INLINE void Transpose16(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// Stored [n, k]: squares of 16 columns x 16 units are transposed in registers.
template <PackKind kKind>
inline void PackTransposed(const PackSource& s, const PackPart& part, uint32_t* packed) {
  const int64_t units = NumUnits(s.k, s.packed_dtype);
  const int64_t row_bytes = s.stride * (s.dtype == DType::kBF16 ? 2 : 4);
  for (int64_t column = part.panel_begin * kPanelColumns; column < part.panel_end * kPanelColumns;
       column += 16) {
    const char* rows = static_cast<const char*>(s.data) + column * row_bytes;
    uint32_t* out =
        packed + column / kPanelColumns * units * kPanelColumns + column % kPanelColumns;
    for (int64_t unit = part.unit_begin; unit < part.unit_end; unit += 16) {
      __m512i r[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        r[i] = column + i < s.n ? LoadUnits<kKind>(rows + i * row_bytes, unit, s.k)
                                : _mm512_setzero_si512();
      }
      Transpose16(r);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        if (unit + i < part.unit_end) {
          _mm512_storeu_si512(out + (unit + i) * kPanelColumns, r[i]);
        }
      }
    }
  }
}

// 32 columns of a whole unit of two rows.
SLUICE_INLINE void InterleavePairs(const BFloat16* even, const BFloat16* odd, uint32_t* out) {
  const __m512i low = _mm512_loadu_si512(even), high = _mm512_loadu_si512(odd);
  const __m512i words = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  // Halves: column j of `even`, then column j of `odd`, which is the second table.
  const __m512i first =
      _mm512_or_si512(words, _mm512_slli_epi32(_mm512_or_si512(words, _mm512_set1_epi32(32)), 16));
  _mm512_storeu_si512(out, _mm512_permutex2var_epi16(low, first, high));
  const __m512i second = _mm512_or_si512(first, _mm512_set1_epi16(16));
  _mm512_storeu_si512(out + 16, _mm512_permutex2var_epi16(low, second, high));
}

template <PackKind kKind>
inline void PackDirect(const PackSource& s, const PackPart& part, uint32_t* packed) {
  const int64_t units = NumUnits(s.k, s.packed_dtype);
  const int64_t whole_panels = s.n / kPanelColumns;
  for (int64_t unit = part.unit_begin; unit < part.unit_end; ++unit) {
    const bool has_pairs = kKind == PackKind::kBF16 && 2 * unit + 1 < s.k;
    for (int64_t panel = part.panel_begin; panel < part.panel_end; ++panel) {
      const int64_t column = panel * kPanelColumns;
      uint32_t* out = packed + (panel * units + unit) * kPanelColumns;
      if (has_pairs && panel < whole_panels) {
        const BFloat16* even = static_cast<const BFloat16*>(s.data) + 2 * unit * s.stride + column;
        InterleavePairs(even, even + s.stride, out);
      } else {
        _mm512_storeu_si512(out, LoadColumns<kKind>(s, unit, column));
        _mm512_storeu_si512(out + 16, LoadColumns<kKind>(s, unit, column + 16));
      }
    }
  }
}

template <PackKind kKind>
inline void PackAs(const PackSource& source, const PackPart& part, uint32_t* packed) {
  if (source.transposed) {
    PackTransposed<kKind>(source, part, packed);
  } else {
    PackDirect<kKind>(source, part, packed);
  }
}

inline void PackPanels(const PackSource& source, const PackPart& part, uint32_t* packed) {
  if (source.packed_dtype == DType::kF32) {
    PackAs<PackKind::kF32>(source, part, packed);
  } else if (source.dtype == DType::kBF16) {
    PackAs<PackKind::kBF16>(source, part, packed);
  } else {
    PackAs<PackKind::kF32ToBF16>(source, part, packed);
  }
}

#endif

// ---- Tiles of `a` -------------------------------------------------------------------------------
//
// A tile holds up to kTileRows rows over all of K, as words that the tile loop broadcasts: floats,
// or BF16 pairs where the target has the dot instruction. Other targets get BF16 widened to floats,
// kWordsPerUnit<kBF16> = 2 words a unit.
//   a as stored [rows, K]:  [block][row][kRowWords]; the 16 spare words keep the rows of a tile
//                           apart in the sets of the first-level cache
//   a stored [K, rows]:     [word of k][kTileRows]

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr int kTileRows = 3;  // instrumented, the full set takes minutes to compile
#else
inline constexpr int kTileRows = SLUICE_WIDTH == 512 ? 12 : SLUICE_WIDTH == 256 ? 6 : 4;
#endif
inline constexpr int kTileSlack = 16;  // a store of a whole vector may reach past the last word

template <Operand kOperand>
inline constexpr int kWordsPerUnit = kOperand == Operand::kBF16 && !SLUICE_HAS_BF16_DOT ? 2 : 1;
template <Operand kOperand>
inline constexpr int64_t kRowWords = kBlockUnits* kWordsPerUnit<kOperand> + 16;

inline int64_t TileWords(int64_t units) {  // enough for every operand
  return CeilDiv(units, kBlockUnits) * kTileRows * kRowWords<Operand::kBF16>;
}

// Copies n elements that lie along k to words, and pads an odd pair.
template <Operand kOperand>
SLUICE_INLINE void CopyAlongK(const void* from, int64_t n, uint32_t* to) {
  if constexpr (kOperand == Operand::kF32) {
    std::memcpy(to, from, static_cast<size_t>(n) * 4);
  } else if constexpr (kWordsPerUnit<kOperand> == 1) {
    if (n % 2 != 0) to[n / 2] = 0;
    std::memcpy(to, from, static_cast<size_t>(n) * 2);
  } else {
    const BFloat16* p = static_cast<const BFloat16*>(from);
    float* out = reinterpret_cast<float*>(to);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) Store(out + i, Load(p + i));
    Store(out + i, Load(p + i, static_cast<int>(n - i)), static_cast<int>(n - i));
    if (n % 2 != 0) out[n] = 0.0f;
  }
}

// Where a row of `a` as stored [rows, K] begins.
template <Operand kOperand>
SLUICE_INLINE const char* RowAt(const MatmulBlock& block, int64_t row) {
  constexpr int64_t kElementBytes = kOperand == Operand::kF32 ? 4 : 2;
  return static_cast<const char*>(block.a) + row * block.a_stride * kElementBytes;
}

template <Operand kOperand>
inline void PackTileRows(const MatmulBlock& block, int64_t begin, int rows, uint32_t* tile) {
  constexpr int64_t kElementBytes = kOperand == Operand::kF32 ? 4 : 2;
  constexpr int64_t kBlockK = kBlockUnits * (kOperand == Operand::kF32 ? 1 : 2);
  for (int64_t k = 0; k < block.k; k += kBlockK) {
    const int64_t n = block.k - k < kBlockK ? block.k - k : kBlockK;
    for (int row = 0; row < rows; ++row) {
      const char* from =
          static_cast<const char*>(block.a) + ((begin + row) * block.a_stride + k) * kElementBytes;
      CopyAlongK<kOperand>(from, n, tile + row * kRowWords<kOperand>);
    }
    tile += kTileRows * kRowWords<kOperand>;
  }
}

// One k of all rows: a short run of contiguous elements.
template <typename T>
SLUICE_INLINE void CopyAcrossRows(const T* from, int rows, uint32_t* to) {
  float* out = reinterpret_cast<float*>(to);
#if SLUICE_WIDTH == 32
  for (int i = 0; i < rows; ++i) Store(out + i, Load(from + i));
#else
  static_assert(kTileRows <= kLanes && kLanes <= kTileSlack);
  Store(out, Load(from, rows));
#endif
}

// Elements [k_begin, k_end) of a tile whose rows lie side by side in memory; both even, or k_end
// the end of K.
template <Operand kOperand, typename T>
inline void PackTileColumns(const T* from, int64_t stride, int rows, int64_t k_begin, int64_t k_end,
                            uint32_t* tile) {
  if constexpr (kOperand == Operand::kF32 || kWordsPerUnit<kOperand> == 2) {
    for (int64_t k = k_begin; k < k_end; ++k) {
      CopyAcrossRows(from + k * stride, rows, tile + k * kTileRows);
    }
    if (kOperand == Operand::kBF16 && k_end % 2 != 0) {
      for (int i = 0; i < kTileRows; ++i) tile[k_end * kTileRows + i] = 0;
    }
  } else {
#if SLUICE_HAS_BF16_DOT
    const __mmask16 mask = LaneMask(rows);
    for (int64_t k = k_begin; k < k_end; k += 2) {
      const __m256i even = _mm256_maskz_loadu_epi16(mask, from + k * stride);
      const __m256i odd =
          _mm256_maskz_loadu_epi16(k + 1 < k_end ? mask : 0, from + (k + 1) * stride);
      const __m512i pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(even),
                                            _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
      _mm512_storeu_si512(tile + k / 2 * kTileRows, pairs);
    }
#endif
  }
}

// First row of tile `tile` of num_tiles.
SLUICE_INLINE int64_t TileBegin(const MatmulBlock& block, int64_t tile, int64_t num_tiles) {
  return block.rows * tile / num_tiles;
}

// All tiles of a block at once, a few k at a time: the rows of one k share cache lines, and the
// next k are fetched meanwhile, which the hardware does not do over such strides.
template <Operand kOperand>
inline void PackAllColumns(const MatmulBlock& block, int64_t num_tiles, uint32_t* scratch) {
  using T = std::conditional_t<kOperand == Operand::kF32, float, BFloat16>;
  constexpr int64_t kChunk = 16, kLine = 64 / sizeof(T);
  const T* from = static_cast<const T*>(block.a);
  const int64_t tile_words = TileWords(NumUnits(block.k, block.dtype));
  for (int64_t k = 0; k < block.k; k += kChunk) {
    const int64_t k_end = block.k - k < kChunk ? block.k : k + kChunk;
    const int64_t ahead_end = block.k - k_end < kChunk ? block.k : k_end + kChunk;
    for (int64_t ahead = k_end; ahead < ahead_end; ++ahead) {
      const T* row = from + ahead * block.a_stride;
      for (int64_t i = 0; i < block.rows; i += kLine) __builtin_prefetch(row + i);
    }
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
      const int64_t begin = TileBegin(block, tile, num_tiles);
      const int rows = static_cast<int>(TileBegin(block, tile + 1, num_tiles) - begin);
      PackTileColumns<kOperand>(from + begin, block.a_stride, rows, k, k_end,
                                scratch + tile * tile_words);
    }
  }
}

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
