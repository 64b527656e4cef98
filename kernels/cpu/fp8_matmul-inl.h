// A block of a product of E4M3 codes. Rows are packed in tiles of kFp8Rows,
// decoded:
//   a   [row tile][k tile][row][kFp8K]    elements: BF16 pairs as words, or
//   floats b   [k (pairs)][kFp8Columns]          one panel, decoded again for
//   every block of rows
// Scales beside them: sa [row tile][k tile][kFp8Rows], sb [k
// tile][kFp8Columns].
#include "kernels/cpu/e4m3-inl.h"
#include "kernels/cpu/transpose-inl.h"

namespace sluice::kernels::cpu::SLUICE_TARGET {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr int kFp8Rows = 3;  // instrumented, the full set takes minutes to compile
#else
inline constexpr int kFp8Rows = SLUICE_WIDTH == 512 ? 12 : SLUICE_WIDTH == 256 ? 6 : 4;
#endif
inline constexpr int kFp8Vectors = SLUICE_WIDTH == 32 ? 8 : 2;
inline constexpr int kFp8Columns = kFp8Vectors * kLanes;
inline constexpr int64_t kPerWord = SLUICE_HAS_BF16_DOT ? 2 : 1;  // elements of K
inline constexpr int64_t kTileWords = kQuantTile / kPerWord;      // of one row in one k tile

struct Fp8KTile {
  int64_t begin = 0, end = 0;
};
SLUICE_INLINE Fp8KTile KTileAt(const Fp8Block& block, int64_t t) {
  if (block.k_bounds != nullptr) return {block.k_bounds[t], block.k_bounds[t + 1]};
  const int64_t begin = t * kQuantTile, end = begin + kQuantTile;
  return {begin, end < block.k ? end : block.k};
}
SLUICE_INLINE int64_t WordsOf(const Fp8KTile& tile) {
  return (tile.end - tile.begin + kPerWord - 1) / kPerWord;
}

#if SLUICE_HAS_BF16_DOT

// 32 codes, one in each 16-bit lane, to BF16 bits.
SLUICE_INLINE __m512i DecodeToBFloat16(__m512i codes) {
  // 0 .. 7 are multiples of 2^-9: BF16 bits of 0, 1 .. 7 times 2^-9, four times
  // over.
  const __m512i table = _mm512_set4_epi64(0x3c603c403c203c00, 0x3bc03b803b000000,
                                          0x3c603c403c203c00, 0x3bc03b803b000000);
  const __m512i magnitude = _mm512_and_si512(codes, _mm512_set1_epi16(0x7f));
  const __m512i sign = _mm512_slli_epi16(_mm512_and_si512(codes, _mm512_set1_epi16(0x80)), 8);
  const __m512i normal =
      _mm512_add_epi16(_mm512_slli_epi16(magnitude, 4), _mm512_set1_epi16(120 << 7));
  const __mmask32 small = _mm512_cmplt_epi16_mask(magnitude, _mm512_set1_epi16(8));
  const __mmask32 nan = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f));
  __m512i value = _mm512_mask_permutexvar_epi16(normal, small, magnitude, table);
  value = _mm512_mask_mov_epi16(value, nan, _mm512_set1_epi16(0x7fc0));
  return _mm512_or_si512(value, sign);
}

SLUICE_INLINE __mmask32 ByteMask(int64_t n) {
  return n >= 32 ? 0xffffffffu : n <= 0 ? 0u : (1u << n) - 1u;
}

// n codes that lie along k, padded with zeros to whole vectors.
SLUICE_INLINE void DecodeAlongK(const uint8_t* codes, int64_t n, uint32_t* words) {
  for (int64_t i = 0; i < n; i += 32) {
    const __m256i bytes = _mm256_maskz_loadu_epi8(ByteMask(n - i), codes + i);
    _mm512_storeu_si512(words + i / 2, DecodeToBFloat16(_mm512_cvtepu8_epi16(bytes)));
  }
}

// Words of (even, odd) pairs for 32 columns; odd null: zeros.
SLUICE_INLINE void DecodePairs(const uint8_t* even, const uint8_t* odd, int64_t columns,
                               __m512i (&words)[2]) {
  const __mmask32 mask = ByteMask(columns);
  const __m512i low = DecodeToBFloat16(_mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, even)));
  const __m512i high =
      odd == nullptr ? _mm512_setzero_si512()
                     : DecodeToBFloat16(_mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, odd)));
  const __m256i low0 = _mm512_castsi512_si256(low), low1 = _mm512_extracti64x4_epi64(low, 1);
  const __m256i high0 = _mm512_castsi512_si256(high), high1 = _mm512_extracti64x4_epi64(high, 1);
  words[0] = _mm512_or_si512(_mm512_cvtepu16_epi32(low0),
                             _mm512_slli_epi32(_mm512_cvtepu16_epi32(high0), 16));
  words[1] = _mm512_or_si512(_mm512_cvtepu16_epi32(low1),
                             _mm512_slli_epi32(_mm512_cvtepu16_epi32(high1), 16));
}

SLUICE_INLINE void DecodePanelWord(const uint8_t* b, int64_t stride, bool has_odd, int64_t columns,
                                   uint32_t* out) {
  __m512i words[2];
  DecodePairs(b, has_odd ? b + stride : nullptr, columns, words);
  _mm512_storeu_si512(out, words[0]);
  _mm512_storeu_si512(out + 16, words[1]);
}

// One word of K for `rows` rows that lie side by side, as a vector.
SLUICE_INLINE F32 DecodeAcrossRows(const uint8_t* a, int64_t stride, bool has_odd, int rows) {
  __m512i words[2];
  DecodePairs(a, has_odd ? a + stride : nullptr, rows, words);
  return _mm512_castsi512_ps(words[0]);
}

SLUICE_INLINE F32 MultiplyAdd(uint32_t a, F32 b, F32 sum) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a))),
                          reinterpret_cast<__m512bh>(b));
}

#else

SLUICE_INLINE void DecodeAlongK(const uint8_t* codes, int64_t n, uint32_t* words) {
  float* out = reinterpret_cast<float*>(words);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, LoadE4M3(codes + i));
  if (i < n) {
    const int left = static_cast<int>(n - i);
    Store(out + i, LoadE4M3(codes + i, left), left);
  }
}

SLUICE_INLINE void DecodePanelWord(const uint8_t* b, int64_t /*stride*/, bool /*has_odd*/,
                                   int64_t columns, uint32_t* out) {
  float* p = reinterpret_cast<float*>(out);
  for (int64_t i = 0; i < kFp8Columns; i += kLanes) {
    const int64_t left = columns - i;
    Store(p + i,
          left <= 0 ? Zero() : LoadE4M3(b + i, left < kLanes ? static_cast<int>(left) : kLanes));
  }
}

SLUICE_INLINE F32 DecodeAcrossRows(const uint8_t* a, int64_t /*stride*/, bool /*has_odd*/,
                                   int rows) {
  return LoadE4M3(a, rows);
}

SLUICE_INLINE F32 MultiplyAdd(uint32_t a, F32 b, F32 sum) {
  return Fma(Set(std::bit_cast<float>(a)), b, sum);
}

#endif

// The word that is added as number w of a tile: of each pair the odd element
// comes first, as the BF16 dot instruction has it (kernels/ops/fp8_matmul.h).
SLUICE_INLINE int64_t InOrderOfSum(int64_t w, int64_t words) {
  if (kPerWord == 2) return w;
  return (w ^ 1) < words ? w ^ 1 : w;
}

// Rows [begin, begin + rows) in k tile `t`, to a + row * kTileWords.
SLUICE_INLINE void PackFp8Rows(const Fp8Block& block, int64_t begin, int rows, int64_t t,
                               uint32_t* a) {
  const Fp8KTile tile = KTileAt(block, t);
  const int64_t n = tile.end - tile.begin;
  if (!block.a_transposed) {
    for (int row = 0; row < rows; ++row) {
      DecodeAlongK(block.a + (begin + row) * block.a_stride + tile.begin, n, a + row * kTileWords);
    }
    return;
  }
  const int64_t words = WordsOf(tile);
#if SLUICE_WIDTH == 32
  for (int row = 0; row < rows; ++row) {
    for (int64_t w = 0; w < words; ++w) {
      const uint8_t* code = block.a + (tile.begin + w) * block.a_stride + begin + row;
      a[row * kTileWords + w] = std::bit_cast<uint32_t>(DecodeAcrossRows(code, 0, false, 1));
    }
  }
#else
  static_assert(kFp8Rows <= kLanes && kTileWords % kLanes == 0);
  for (int64_t w = 0; w < words; w += kLanes) {
    F32 r[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const int64_t k = (w + i) * kPerWord;
      const uint8_t* codes = block.a + (tile.begin + k) * block.a_stride + begin;
      r[i] = k < n ? DecodeAcrossRows(codes, block.a_stride, k + 1 < n, rows) : Zero();
    }
    TransposeSquare(r);
    for (int row = 0; row < rows; ++row) {
      Store(reinterpret_cast<float*>(a + row * kTileWords + w), r[row]);
    }
  }
#endif
}

// Columns [column, column + columns) of the block, columns <= kFp8Columns, and
// their scales.
inline void DecodePanel(const Fp8Block& block, int64_t column, int64_t columns, uint32_t* b,
                        float* sb) {
  for (int64_t t = 0; t < block.num_k_tiles; ++t, sb += kFp8Columns) {
    const Fp8KTile tile = KTileAt(block, t);
    for (int64_t k = tile.begin; k < tile.end; k += kPerWord, b += kFp8Columns) {
      DecodePanelWord(block.b + k * block.b_stride + column, block.b_stride, k + 1 < tile.end,
                      columns, b);
    }
    const float* scales = block.b_scales + t * block.b_tile_step;
    int64_t n_tile = 0;
    for (int64_t i = 0; i < kFp8Columns; ++i) {
      const int64_t at = block.first_column + column + i;
      if (i >= columns) {
        sb[i] = 0.0f;
      } else if (block.scale_per_column) {
        sb[i] = scales[at];
      } else if (block.b_bounds == nullptr) {
        sb[i] = scales[at / kQuantTile];
      } else {
        while (block.b_bounds[n_tile + 1] <= at) ++n_tile;
        sb[i] = scales[n_tile];
      }
    }
  }
}

struct Fp8TileArgs {
  const Fp8Block* block = nullptr;
  const uint32_t *a = nullptr, *b = nullptr;
  const float *sa = nullptr, *sb = nullptr;
  void* c = nullptr;
  int64_t columns = 0;
};

inline void WriteFp8Rows(const Fp8TileArgs& args, const float* total, int rows) {
  const MatmulOutput output = args.block->output;
  for (int i = 0; i < rows; ++i) {
    for (int64_t column = 0; column < args.columns; column += kLanes) {
      const int64_t left = args.columns - column, at = i * args.block->c_stride + column;
      const int n = left < kLanes ? static_cast<int>(left) : kLanes;
      const F32 sum = Load(total + i * kFp8Columns + column);
      if (output == MatmulOutput::kStoreBF16) {
        Store(static_cast<BFloat16*>(args.c) + at, sum, n);
      } else {
        float* c = static_cast<float*>(args.c) + at;
        Store(c, output == MatmulOutput::kAddF32 ? Add(Load(c, n), sum) : sum, n);
      }
    }
  }
}

template <int kRows>
inline void Fp8Tile(const Fp8TileArgs& args) {
  alignas(64) float total[kRows * kFp8Columns] = {};
  const uint32_t *a = args.a, *b = args.b;
  const float *sa = args.sa, *sb = args.sb;
  for (int64_t t = 0; t < args.block->num_k_tiles; ++t) {
    F32 sums[kRows][kFp8Vectors];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < kFp8Vectors; ++v) sums[i][v] = Zero();
    }
    const int64_t words = WordsOf(KTileAt(*args.block, t));
    for (int64_t w = 0; w < words; ++w) {
      const int64_t at = InOrderOfSum(w, words);
      F32 column[kFp8Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < kFp8Vectors; ++v) {
        column[v] = Load(reinterpret_cast<const float*>(b) + at * kFp8Columns + v * kLanes);
      }
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
        for (int v = 0; v < kFp8Vectors; ++v) {
          sums[i][v] = MultiplyAdd(a[i * kTileWords + at], column[v], sums[i][v]);
        }
      }
    }
    b += words * kFp8Columns;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < kFp8Vectors; ++v) {
        float* p = total + i * kFp8Columns + v * kLanes;
        Store(p, Fused(sums[i][v], Mul(Set(sa[i]), Load(sb + v * kLanes)), Load(p)));
      }
    }
    a += kFp8Rows * kTileWords;
    sa += kFp8Rows;
    sb += kFp8Columns;
  }
  WriteFp8Rows(args, total, kRows);
}

using Fp8TileFunction = void (*)(const Fp8TileArgs&);
template <int... kRows>
SLUICE_INLINE Fp8TileFunction PickFp8Tile(int rows, std::integer_sequence<int, kRows...>) {
  static constexpr Fp8TileFunction kTiles[] = {&Fp8Tile<kRows + 1>...};
  return kTiles[rows - 1];
}

SLUICE_INLINE int64_t NumFp8Tiles(const Fp8Block& block) {
  return (block.rows + kFp8Rows - 1) / kFp8Rows;
}
inline constexpr int64_t kFp8TileSpace = kFp8Rows * (kTileWords + 1);  // a and sa of one k tile

// Each k tile may end in half a word.
SLUICE_INLINE int64_t Fp8KWords(const Fp8Block& block) {
  return block.k / kPerWord + block.num_k_tiles;
}
inline int64_t Fp8ScratchWords(const Fp8Block& block) {
  return NumFp8Tiles(block) * block.num_k_tiles * kFp8TileSpace +
         (Fp8KWords(block) + block.num_k_tiles) * kFp8Columns;
}

inline void MultiplyFp8(const Fp8Block& block, uint32_t* scratch) {
  const int64_t num_tiles = NumFp8Tiles(block), k_tiles = block.num_k_tiles;
  float* sb = reinterpret_cast<float*>(scratch);
  uint32_t* b = scratch + k_tiles * kFp8Columns;
  uint32_t* a = b + Fp8KWords(block) * kFp8Columns;
  float* sa = reinterpret_cast<float*>(a + num_tiles * k_tiles * kFp8Rows * kTileWords);
  for (int64_t t = 0; t < k_tiles; ++t) {
    for (int64_t i = 0; i < num_tiles; ++i) {
      const int64_t begin = block.rows * i / num_tiles, end = block.rows * (i + 1) / num_tiles;
      const int rows = static_cast<int>(end - begin);
      PackFp8Rows(block, begin, rows, t, a + (i * k_tiles + t) * kFp8Rows * kTileWords);
      for (int row = 0; row < rows; ++row) {
        sa[(i * k_tiles + t) * kFp8Rows + row] =
            block.a_scales[(begin + row) * block.a_row_step + t * block.a_tile_step];
      }
    }
  }
  const int64_t element_bytes = block.output == MatmulOutput::kStoreBF16 ? 2 : 4;
  for (int64_t column = 0; column < block.columns; column += kFp8Columns) {
    const int64_t left = block.columns - column;
    Fp8TileArgs args;
    args.block = &block;
    args.columns = left < kFp8Columns ? left : kFp8Columns;
    args.b = b;
    args.sb = sb;
    DecodePanel(block, column, args.columns, b, sb);
    for (int64_t i = 0; i < num_tiles; ++i) {
      const int64_t begin = block.rows * i / num_tiles, end = block.rows * (i + 1) / num_tiles;
      args.a = a + i * k_tiles * kFp8Rows * kTileWords;
      args.sa = sa + i * k_tiles * kFp8Rows;
      args.c = static_cast<char*>(block.c) + (begin * block.c_stride + column) * element_bytes;
      PickFp8Tile(static_cast<int>(end - begin), std::make_integer_sequence<int, kFp8Rows>{})(args);
    }
  }
}

inline constexpr Fp8MatmulTable kFp8MatmulTable = {
    .tile_rows = kFp8Rows, .scratch_words = Fp8ScratchWords, .multiply = MultiplyFp8};

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
