namespace sluice::kernels::cpu::SLUICE_TARGET {

// The angles of one token, spread for interleaved pairs: cos[2i] = cos[2i+1] = cos of pair i, and
// sin[2i] = -sin, sin[2i+1] = sin, so that y = x cos + swapped(x) sin.
struct SpreadAngles {
  static constexpr int kColumns = 64;
  float cos[kColumns], sin[kColumns];
};

inline void Spread(const float* cos, const float* sin, int64_t pairs, bool inverse,
                   SpreadAngles& to) {
  const float sign = inverse ? -1.0f : 1.0f;
  for (int64_t i = 0; i < pairs; ++i) {
    to.cos[2 * i] = to.cos[2 * i + 1] = cos[i];
    to.sin[2 * i] = -sign * sin[i];
    to.sin[2 * i + 1] = sign * sin[i];
  }
}

#if SLUICE_WIDTH == 256
SLUICE_INLINE F32 SwapPairs(F32 x) { return _mm256_permute_ps(x, 0xb1); }
#elif SLUICE_WIDTH == 512
SLUICE_INLINE F32 SwapPairs(F32 x) { return _mm512_permute_ps(x, 0xb1); }
#endif

template <typename T>
SLUICE_INLINE void RotateInterleaved(const T* x, T* y, const SpreadAngles& angles,
                                     int64_t columns) {
#if SLUICE_WIDTH == 32
  for (int64_t d = 0; d < columns; d += 2) {
    const F32 x0 = Load(x + d), x1 = Load(x + d + 1);
    Store(y + d, Fma(x0, angles.cos[d], x1 * angles.sin[d]));
    Store(y + d + 1, Fma(x1, angles.cos[d + 1], x0 * angles.sin[d + 1]));
  }
#else
  int64_t d = 0;
  for (; d + kLanes <= columns; d += kLanes) {
    const F32 v = Load(x + d);
    Store(y + d, Fma(v, Load(angles.cos + d), Mul(SwapPairs(v), Load(angles.sin + d))));
  }
  if (d < columns) {
    const int rest = static_cast<int>(columns - d);
    const F32 v = Load(x + d, rest);
    Store(y + d, Fma(v, Load(angles.cos + d, rest), Mul(SwapPairs(v), Load(angles.sin + d, rest))),
          rest);
  }
#endif
}

template <typename T>
inline void RopeInterleavedTokens(const RopeArgs& args, int64_t begin, int64_t end) {
  const int64_t half = args.cos.extent(1), width = 2 * half;
  const int32_t* positions = args.positions.data<int32_t>();
  SpreadAngles angles;
  for (int64_t t = begin; t < end; ++t) {
    const T* x = args.x.data<T>() + t * args.x.row_stride();
    T* y = args.y.mutable_data<T>() + t * args.y.row_stride();
    const float* cos = args.cos.data<float>() + positions[t] * args.cos.row_stride();
    const float* sin = args.sin.data<float>() + positions[t] * args.sin.row_stride();
    for (int64_t d = 0; d < width; d += SpreadAngles::kColumns) {
      const int64_t left = width - d;
      const int64_t columns = left < SpreadAngles::kColumns ? left : SpreadAngles::kColumns;
      Spread(cos + d / 2, sin + d / 2, columns / 2, args.inverse, angles);
      for (int64_t a = 0; a < args.num_heads; ++a) {
        RotateInterleaved(x + a * args.head_stride + d, y + a * args.y_head_stride + d, angles,
                          columns);
      }
    }
  }
}

// n pairs (x[i], x[i + half]).
template <typename T>
SLUICE_INLINE void RotateHalves(const T* x, T* y, int64_t half, F32 cos, F32 sin, int n) {
  const F32 x0 = Load(x, n), x1 = Load(x + half, n);
  Store(y, Fma(x0, cos, Mul(x1, Sub(Zero(), sin))), n);
  Store(y + half, Fma(x1, cos, Mul(x0, sin)), n);
}

template <typename T>
inline void RopeHalfTokens(const RopeArgs& args, int64_t begin, int64_t end) {
  const int64_t half = args.cos.extent(1);
  const int32_t* positions = args.positions.data<int32_t>();
  for (int64_t t = begin; t < end; ++t) {
    const T* x = args.x.data<T>() + t * args.x.row_stride();
    T* y = args.y.mutable_data<T>() + t * args.y.row_stride();
    const float* cos = args.cos.data<float>() + positions[t] * args.cos.row_stride();
    const float* sin = args.sin.data<float>() + positions[t] * args.sin.row_stride();
    for (int64_t i = 0; i < half; i += kLanes) {
      const int n = half - i < kLanes ? static_cast<int>(half - i) : kLanes;
      const F32 c = Load(cos + i, n), s0 = Load(sin + i, n);
      const F32 s = args.inverse ? Sub(Zero(), s0) : s0;
      for (int64_t a = 0; a < args.num_heads; ++a) {
        RotateHalves(x + a * args.head_stride + i, y + a * args.y_head_stride + i, half, c, s, n);
      }
    }
  }
}

template <typename T>
inline void SumHeadsTokens(const SumHeadsArgs& args, int64_t begin, int64_t end) {
  const int64_t width = args.y.extent(1);
  for (int64_t t = begin; t < end; ++t) {
    const T* x = args.x.data<T>() + t * args.x.row_stride();
    T* y = args.y.mutable_data<T>() + t * args.y.row_stride();
    for (int64_t d = 0; d < width; d += kLanes) {
      const int n = width - d < kLanes ? static_cast<int>(width - d) : kLanes;
      F32 sum = Zero();
      for (int64_t a = 0; a < args.num_heads; ++a) {
        sum = Add(sum, Load(x + a * args.head_stride + d, n));
      }
      Store(y + d, sum, n);
    }
  }
}

inline constexpr RopeTable kRopeTable = {
    .interleaved = {.f32 = RopeInterleavedTokens<float>, .bf16 = RopeInterleavedTokens<BFloat16>},
    .half = {.f32 = RopeHalfTokens<float>, .bf16 = RopeHalfTokens<BFloat16>},
    .sum_heads = {.f32 = SumHeadsTokens<float>, .bf16 = SumHeadsTokens<BFloat16>},
};

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
