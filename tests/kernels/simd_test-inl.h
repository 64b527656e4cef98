// The functions of simd-inl.h as loops that a test can call under each target.

namespace sluice::kernels::cpu::SLUICE_TARGET {

template <F32 (*kFunction)(F32)>
inline void Map(const float* x, float* y, int n) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(y + i, kFunction(Load(x + i)));
  Store(y + i, kFunction(Load(x + i, n - i)), n - i);
}

inline void SiluSlopeOf(const float* x, const float* s, float* y, int n) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(y + i, SiluSlope(Load(x + i), Load(s + i)));
  Store(y + i, SiluSlope(Load(x + i, n - i), Load(s + i, n - i)), n - i);
}

template <typename From, typename To>
inline void Copy(const From* x, To* y, int n) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(y + i, Load(x + i));
  Store(y + i, Load(x + i, n - i), n - i);
}

// x[0] to x[2] a vector each; y gets one vector per operation.
inline void Arithmetic(const float* x, float* y) {
  const F32 a = Load(x), b = Load(x + kLanes), c = Load(x + 2 * kLanes);
  Store(y, Add(a, b));
  Store(y + kLanes, Sub(a, b));
  Store(y + 2 * kLanes, Mul(a, b));
  Store(y + 3 * kLanes, Div(a, b));
  Store(y + 4 * kLanes, Fma(a, b, c));
  Store(y + 5 * kLanes, Max(a, b));
  Store(y + 6 * kLanes, Min(a, b));
  Store(y + 7 * kLanes, Sqrt(Mul(a, a)));
  Store(y + 8 * kLanes, Set(ReduceAdd(a)));
  Store(y + 9 * kLanes, Set(ReduceMax(a)));
}

inline constexpr SimdTable kSimdTable = {.lanes = kLanes,
                                         .exp = Map<Exp>,
                                         .sigmoid = Map<Sigmoid>,
                                         .silu = Map<Silu>,
                                         .silu_slope = SiluSlopeOf,
                                         .copy = Copy<float, float>,
                                         .narrow = Copy<float, BFloat16>,
                                         .widen = Copy<BFloat16, float>,
                                         .arithmetic = Arithmetic};

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
