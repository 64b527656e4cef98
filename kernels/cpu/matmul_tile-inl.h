// One tile: up to kTileRows rows times kTileColumns columns of c, over all of K. The accumulators
// fill the register file: 12 x 2 vectors of 32 registers (AVX-512), 6 x 2 of 16 (AVX2).

namespace sluice::kernels::cpu::SLUICE_TARGET {

inline constexpr int kTileColumns = SLUICE_WIDTH == 32 ? kPanelColumns : 2 * kLanes;

struct TileArgs {
  const uint32_t* a = nullptr;  // a packed tile
  const uint32_t* b = nullptr;  // a panel, from the tile's first column on
  int64_t units = 0;
  void* c = nullptr;
  int64_t c_stride = 0;
  int columns = 0;  // in [1, kTileColumns]
  MatmulOutput output = MatmulOutput::kStoreF32;
  // Rows as stored that will be packed next, fetched meanwhile; null: none. Only speed depends on
  // them, and no more than the addresses.
  const char* ahead = nullptr;
  int64_t ahead_stride = 0;  // bytes
};

inline void* OutputAt(const MatmulBlock& block, int64_t row, int64_t column) {
  const int64_t bytes = block.output == MatmulOutput::kStoreBF16 ? 2 : 4;
  return static_cast<char*>(block.c) + (row * block.c_stride + column) * bytes;
}

// Distance of the words of one unit for consecutive rows, and of consecutive words of one row.
template <Operand kOperand, bool kTransposed>
inline constexpr int64_t kRowStep = kTransposed ? 1 : kRowWords<kOperand>;
template <bool kTransposed>
inline constexpr int64_t kWordStep = kTransposed ? kTileRows : 1;

SLUICE_INLINE float FloatOf(uint32_t word) { return std::bit_cast<float>(word); }

#if SLUICE_WIDTH == 32

// sums += a b over n units. Plain loops over a whole panel row, which the compiler vectorises.
template <Operand kOperand, bool kTransposed, int kRows>
inline void AddProducts(const uint32_t* a, const uint32_t* b, int64_t n,
                        float (&sums)[kRows][kPanelColumns]) {
  constexpr int64_t kRow = kRowStep<kOperand, kTransposed>, kWord = kWordStep<kTransposed>;
  for (int64_t unit = 0; unit < n; ++unit, b += kPanelColumns) {
    float low[kPanelColumns], high[kPanelColumns];
    for (int j = 0; j < kPanelColumns; ++j) {
      low[j] = FloatOf(kOperand == Operand::kF32 ? b[j] : b[j] << 16);
      high[j] = FloatOf(b[j] & 0xffff0000u);
    }
    for (int i = 0; i < kRows; ++i) {
      if constexpr (kOperand == Operand::kF32) {
        const float x = FloatOf(a[i * kRow + unit * kWord]);
        for (int j = 0; j < kPanelColumns; ++j) sums[i][j] += x * low[j];
      } else {
        const float x = FloatOf(a[i * kRow + 2 * unit * kWord]);
        const float y = FloatOf(a[i * kRow + (2 * unit + 1) * kWord]);
        for (int j = 0; j < kPanelColumns; ++j) sums[i][j] = sums[i][j] + x * low[j] + y * high[j];
      }
    }
  }
}

template <Operand kOperand, bool kTransposed, int kVectors, int kRows>
inline void Tile(const TileArgs& args) {
  float total[kRows][kPanelColumns] = {};
  const uint32_t *a = args.a, *b = args.b;
  for (int64_t left = args.units; left > 0; left -= kBlockUnits) {
    const int64_t n = left < kBlockUnits ? left : kBlockUnits;
    float sums[kRows][kPanelColumns] = {};
    AddProducts<kOperand, kTransposed, kRows>(a, b, n, sums);
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kPanelColumns; ++j) total[i][j] += sums[i][j];
    }
    a += kTransposed ? n * kWordsPerUnit<kOperand> * kTileRows : kTileRows * kRowWords<kOperand>;
    b += n * kPanelColumns;
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < args.columns; ++j) {
      const int64_t at = i * args.c_stride + j;
      switch (args.output) {
        case MatmulOutput::kStoreF32:
          static_cast<float*>(args.c)[at] = total[i][j];
          break;
        case MatmulOutput::kAddF32:
          static_cast<float*>(args.c)[at] += total[i][j];
          break;
        case MatmulOutput::kStoreBF16:
          static_cast<BFloat16*>(args.c)[at] = ToBFloat16(total[i][j]);
          break;
      }
    }
  }
}

#else

SLUICE_INLINE F32 LoadWords(const uint32_t* p) { return Load(reinterpret_cast<const float*>(p)); }

#if SLUICE_WIDTH == 256
SLUICE_INLINE F32 LowHalves(F32 words) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(words), 16));
}
SLUICE_INLINE F32 HighHalves(F32 words) {
  return _mm256_and_ps(words, _mm256_castsi256_ps(_mm256_set1_epi32(~0xffff)));
}
#elif !SLUICE_HAS_BF16_DOT
SLUICE_INLINE F32 LowHalves(F32 words) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(words), 16));
}
SLUICE_INLINE F32 HighHalves(F32 words) {
  return _mm512_and_ps(words, _mm512_castsi512_ps(_mm512_set1_epi32(~0xffff)));
}
#endif

// sums += x b for one word x of each row, x at a[row * kRow].
template <int kVectors, int kRows, int64_t kRow>
SLUICE_INLINE void AddOuterProduct(const uint32_t* a, const F32 (&b)[kVectors],
                                   F32 (&sums)[kRows][kVectors]) {
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    const F32 x = Set(FloatOf(a[i * kRow]));
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[i][v] = Fma(x, b[v], sums[i][v]);
  }
}

#if SLUICE_HAS_BF16_DOT
template <int kVectors, int kRows, int64_t kRow>
SLUICE_INLINE void AddPairProduct(const uint32_t* a, const F32 (&b)[kVectors],
                                  F32 (&sums)[kRows][kVectors]) {
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    const __m512i x = _mm512_set1_epi32(static_cast<int>(a[i * kRow]));
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      sums[i][v] = _mm512_dpbf16_ps(sums[i][v], reinterpret_cast<__m512bh>(x),
                                    reinterpret_cast<__m512bh>(b[v]));
    }
  }
}
#endif

// sums += a b over n units, in ascending k.
template <Operand kOperand, bool kTransposed, int kVectors, int kRows>
SLUICE_INLINE void AddUnits(const uint32_t* a, const uint32_t* b, int64_t n,
                            F32 (&sums)[kRows][kVectors]) {
  constexpr int64_t kRow = kRowStep<kOperand, kTransposed>, kWord = kWordStep<kTransposed>;
  for (int64_t unit = 0; unit < n; ++unit) {
    F32 words[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) words[v] = LoadWords(b + v * kLanes);
    if constexpr (kOperand == Operand::kF32) {
      AddOuterProduct<kVectors, kRows, kRow>(a, words, sums);
    } else {
#if SLUICE_HAS_BF16_DOT
      AddPairProduct<kVectors, kRows, kRow>(a, words, sums);
#else
      F32 half[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) half[v] = LowHalves(words[v]);
      AddOuterProduct<kVectors, kRows, kRow>(a, half, sums);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) half[v] = HighHalves(words[v]);
      AddOuterProduct<kVectors, kRows, kRow>(a + kWord, half, sums);
#endif
    }
    a += kWordsPerUnit<kOperand> * kWord;
    b += kPanelColumns;
  }
}

// What a tile fetches while it multiplies: lines that it will write, and rows as stored that will
// be packed next. A few lines at a time: more at once than the cache can wait for stop the loads of
// the products, and the hardware does not fetch over the pauses that the products make.
struct Fetches {
  const char* output = nullptr;
  int64_t output_stride = 0, output_last = 0;  // bytes; from a row's first byte to its last
  int output_rows = 0;                         // left
  const char* ahead = nullptr;
  int64_t ahead_stride = 0;
};

template <int kRows>
SLUICE_INLINE void FetchSome(int64_t unit, Fetches& fetches) {
  constexpr int kAtOnce = 2;
  for (int i = 0; i < kAtOnce && fetches.output_rows > 0; ++i, --fetches.output_rows) {
    __builtin_prefetch(fetches.output, 1);
    __builtin_prefetch(fetches.output + fetches.output_last, 1);
    fetches.output += fetches.output_stride;
  }
  if (fetches.ahead == nullptr) return;
  for (int i = 0; i < kRows; ++i) {
    __builtin_prefetch(fetches.ahead + i * fetches.ahead_stride + unit * 4);
  }
}

template <Operand kOperand, bool kTransposed, int kVectors, int kRows>
SLUICE_INLINE void AddProducts(const uint32_t* a, const uint32_t* b, int64_t n, Fetches& fetches,
                               F32 (&sums)[kRows][kVectors]) {
  constexpr int64_t kLineUnits = 16;
  for (int64_t unit = 0; unit < n; unit += kLineUnits) {
    FetchSome<kRows>(unit, fetches);
    const int64_t left = n - unit;
    AddUnits<kOperand, kTransposed, kVectors, kRows>(a, b, left < kLineUnits ? left : kLineUnits,
                                                     sums);
    a += kLineUnits * kWordsPerUnit<kOperand> * kWordStep<kTransposed>;
    b += kLineUnits * kPanelColumns;
  }
  if (fetches.ahead != nullptr) fetches.ahead += n * 4;
}

// Writes a tile that is narrower than its vectors, from sums in memory; kept out of Tile, which
// exists a hundred times.
inline void WriteNarrow(const TileArgs& args, const float* sums, int rows, int width) {
  for (int i = 0; i < rows; ++i) {
    for (int column = 0; column < args.columns; column += kLanes) {
      const int left = args.columns - column, n = left < kLanes ? left : kLanes;
      const int64_t at = i * args.c_stride + column;
      const F32 sum = Load(sums + i * width + column);
      if (args.output == MatmulOutput::kStoreBF16) {
        Store(static_cast<BFloat16*>(args.c) + at, sum, n);
      } else {
        float* c = static_cast<float*>(args.c) + at;
        Store(c, args.output == MatmulOutput::kAddF32 ? Add(Load(c, n), sum) : sum, n);
      }
    }
  }
}

SLUICE_INLINE Fetches FetchesOf(const TileArgs& args, int rows) {
  const int64_t element_bytes = args.output == MatmulOutput::kStoreBF16 ? 2 : 4;
  Fetches fetches;
  fetches.output = static_cast<const char*>(args.c);
  fetches.output_stride = args.c_stride * element_bytes;
  fetches.output_last = args.columns * element_bytes - 1;
  fetches.output_rows = rows;
  fetches.ahead = args.ahead;
  fetches.ahead_stride = args.ahead_stride;
  return fetches;
}

template <Operand kOperand, bool kTransposed, int kVectors, int kRows>
inline void Tile(const TileArgs& args) {
  alignas(64) float total[kRows][kVectors * kLanes];  // of the blocks before this one
  const uint32_t *a = args.a, *b = args.b;
  F32 sums[kRows][kVectors];
  Fetches fetches = FetchesOf(args, kRows);
  for (int64_t left = args.units;; left -= kBlockUnits) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[i][v] = Zero();
    }
    const int64_t n = left < kBlockUnits ? left : kBlockUnits;
    AddProducts<kOperand, kTransposed, kVectors, kRows>(a, b, n, fetches, sums);
    if (left < args.units) {
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          sums[i][v] = Add(Load(&total[i][v * kLanes]), sums[i][v]);
        }
      }
    }
    if (left <= kBlockUnits) break;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) Store(&total[i][v * kLanes], sums[i][v]);
    }
    a += kTransposed ? n * kWordsPerUnit<kOperand> * kTileRows : kTileRows * kRowWords<kOperand>;
    b += n * kPanelColumns;
  }
  if (args.columns != kVectors * kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) Store(&total[i][v * kLanes], sums[i][v]);
    }
    WriteNarrow(args, &total[0][0], kRows, kVectors * kLanes);
  } else if (kOperand == Operand::kBF16 && args.output == MatmulOutput::kStoreBF16) {
    BFloat16* c = static_cast<BFloat16*>(args.c);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i, c += args.c_stride) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) Store(c + v * kLanes, sums[i][v]);
    }
  } else {
    float* c = static_cast<float*>(args.c);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i, c += args.c_stride) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        float* p = c + v * kLanes;
        Store(p, args.output == MatmulOutput::kAddF32 ? Add(Load(p), sums[i][v]) : sums[i][v]);
      }
    }
  }
}

#endif

using TileFunction = void (*)(const TileArgs&);

template <Operand kOperand, bool kTransposed, int kVectors, int... kRows>
SLUICE_INLINE TileFunction PickTile(int rows, std::integer_sequence<int, kRows...>) {
  static constexpr TileFunction kTiles[] = {&Tile<kOperand, kTransposed, kVectors, kRows + 1>...};
  return kTiles[rows - 1];
}

// Runs the tile function made for exactly `rows` rows; narrow tiles skip the second vector.
template <Operand kOperand, bool kTransposed>
SLUICE_INLINE void RunTile(const TileArgs& args, int rows) {
  using Heights = std::make_integer_sequence<int, kTileRows>;
  if (args.columns > kLanes) {
    PickTile<kOperand, kTransposed, 2>(rows, Heights{})(args);
  } else {
    PickTile<kOperand, kTransposed, 1>(rows, Heights{})(args);
  }
}

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
