// Products of blocks that lie in the first-level cache, over 32-bit units of the contracted
// dimension: a unit is one float, or two neighbouring bf16 where the target multiplies those
// (kPairs).

namespace sluice::kernels::cpu::SLUICE_TARGET {

// c[m, n] = sum over u of a[m, u] b[u, n], added to c[m, n] * c_scale[n] with accumulate.
struct SmallMatmulArgs {
  const uint32_t* a = nullptr;  // [rows, units]
  int64_t a_stride = 0;
  const uint32_t* b = nullptr;  // [units, columns]
  int64_t b_stride = 0;
  float* c = nullptr;  // [rows, columns]
  int64_t c_stride = 0;
  int64_t rows = 0, columns = 0, units = 0;  // columns: a multiple of kLanes
  bool accumulate = false;
  const float* c_scale = nullptr;  // null: 1
};

template <bool kPairs>
SLUICE_INLINE F32 MultiplyAdd(uint32_t a, F32 b, F32 sum) {
#if SLUICE_HAS_BF16_DOT
  if constexpr (kPairs) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(static_cast<int>(a)), (__m512bh)b);
  }
#endif
  return Fma(Set(std::bit_cast<float>(a)), b, sum);
}

template <bool kPairs, int kRows, int kVectors>
inline void SmallTile(const SmallMatmulArgs& args, int64_t row, int64_t column) {
  const uint32_t* a = args.a + row * args.a_stride;
  const uint32_t* b = args.b + column;
  float* c = args.c + row * args.c_stride + column;
  F32 sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      F32 sum = args.accumulate ? Load(c + i * args.c_stride + v * kLanes) : Zero();
      if (args.c_scale != nullptr) sum = Mul(sum, Load(args.c_scale + column + v * kLanes));
      sums[i][v] = sum;
    }
  }
  for (int64_t u = 0; u < args.units; ++u) {
    F32 words[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      words[v] = Load(reinterpret_cast<const float*>(b + u * args.b_stride + v * kLanes));
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sums[i][v] = MultiplyAdd<kPairs>(a[i * args.a_stride + u], words[v], sums[i][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Store(c + i * args.c_stride + v * kLanes, sums[i][v]);
  }
}

// All rows of kVectors vectors of columns.
template <bool kPairs, int kVectors>
inline void SmallColumns(const SmallMatmulArgs& args, int64_t column) {
  constexpr int kTileRows = SLUICE_WIDTH == 512 ? 8 : 4;
  int64_t row = 0;
  for (; row + kTileRows <= args.rows; row += kTileRows) {
    SmallTile<kPairs, kTileRows, kVectors>(args, row, column);
  }
  for (; row < args.rows; ++row) SmallTile<kPairs, 1, kVectors>(args, row, column);
}

template <bool kPairs>
inline void SmallMatmul(const SmallMatmulArgs& args) {
  constexpr int kMostVectors = SLUICE_WIDTH == 512 ? 3 : 2;
  for (int64_t column = 0; column < args.columns;) {
    const int64_t left = (args.columns - column) / kLanes;
    if (left >= kMostVectors && left != 4) {
      SmallColumns<kPairs, kMostVectors>(args, column);
      column += kMostVectors * kLanes;
    } else if (left >= 2) {
      SmallColumns<kPairs, 2>(args, column);
      column += 2 * kLanes;
    } else {
      SmallColumns<kPairs, 1>(args, column);
      column += kLanes;
    }
  }
}

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
