namespace sluice::kernels::cpu::SLUICE_TARGET {

struct AdamWFactors {
  F32 gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
  F32 correction1, correction2;  // 1 / (1 - beta^step)
  F32 eps, weight_decay, minus_learning_rate;
};

struct AdamWState {
  F32 master, m, v;
};

SLUICE_INLINE AdamWState AdamWUpdate(const AdamWFactors& f, AdamWState state, F32 gradient) {
  const F32 g = Mul(f.gradient_scale, gradient);
  const F32 m = Fma(f.beta1, state.m, Mul(f.one_minus_beta1, g));
  const F32 v = Fma(f.beta2, state.v, Mul(Mul(f.one_minus_beta2, g), g));
  const F32 denominator = Add(Sqrt(Mul(v, f.correction2)), f.eps);
  const F32 step = Div(Mul(m, f.correction1), denominator);
  const F32 change = Fma(f.weight_decay, state.master, step);
  return {Fma(f.minus_learning_rate, change, state.master), m, v};
}

inline AdamWFactors FactorsOf(const AdamWArgs& args) {
  const double b1 = static_cast<double>(args.beta1), b2 = static_cast<double>(args.beta2);
  const double step = static_cast<double>(args.step);
  return {.gradient_scale = Set(args.gradient_scale),
          .beta1 = Set(args.beta1),
          .one_minus_beta1 = Set(static_cast<float>(1.0 - b1)),
          .beta2 = Set(args.beta2),
          .one_minus_beta2 = Set(static_cast<float>(1.0 - b2)),
          .correction1 = Set(static_cast<float>(1.0 / (1.0 - std::pow(b1, step)))),
          .correction2 = Set(static_cast<float>(1.0 / (1.0 - std::pow(b2, step)))),
          .eps = Set(args.eps),
          .weight_decay = Set(args.weight_decay),
          .minus_learning_rate = Set(-args.learning_rate)};
}

struct NoValue {};
SLUICE_INLINE void StoreValue(NoValue*, int64_t, F32, int) {}
template <typename Value>
SLUICE_INLINE void StoreValue(Value* value, int64_t i, F32 x, int n) {
  Store(value + i, x, n);
}

template <typename Moment, typename Value>
SLUICE_INLINE void AdamWSpan(const AdamWArgs& args, Value* value, int64_t begin, int64_t end) {
  const AdamWFactors factors = FactorsOf(args);
  float* master = args.master.mutable_data<float>();
  const float* gradient = args.gradient.data<float>();
  Moment *m = args.m.mutable_data<Moment>(), *v = args.v.mutable_data<Moment>();
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    const AdamWState state =
        AdamWUpdate(factors, {Load(master + i), Load(m + i), Load(v + i)}, Load(gradient + i));
    Store(master + i, state.master);
    Store(m + i, state.m);
    Store(v + i, state.v);
    StoreValue(value, i, state.master, kLanes);
  }
  if (i < end) {
    const int n = static_cast<int>(end - i);
    const AdamWState state = AdamWUpdate(
        factors, {Load(master + i, n), Load(m + i, n), Load(v + i, n)}, Load(gradient + i, n));
    Store(master + i, state.master, n);
    Store(m + i, state.m, n);
    Store(v + i, state.v, n);
    StoreValue(value, i, state.master, n);
  }
}

template <typename Moment>
inline void AdamWWithoutValue(const AdamWArgs& args, int64_t begin, int64_t end) {
  AdamWSpan<Moment>(args, static_cast<NoValue*>(nullptr), begin, end);
}

template <typename Moment, typename Value>
inline void AdamWWithValue(const AdamWArgs& args, int64_t begin, int64_t end) {
  AdamWSpan<Moment>(args, args.value.mutable_data<Value>(), begin, end);
}

// One block in double: squares of floats are exact there, and cannot overflow. Vectors of eight on
// every target, so that all targets give the same bits.
inline double SumSquaresOfBlock(const float* x, int64_t n) {
  typedef double Doubles __attribute__((vector_size(64)));
  typedef float Floats __attribute__((vector_size(32)));
  Doubles s0 = {}, s1 = {}, s2 = {}, s3 = {};
  float tail[32] = {};
  for (int64_t i = 0; i < n; i += 32) {
    const float* from = x + i;
    if (i + 32 > n) {
      std::memcpy(tail, from, static_cast<size_t>(n - i) * sizeof(float));
      from = tail;
    }
    Floats f0, f1, f2, f3;
    std::memcpy(&f0, from, sizeof f0);
    std::memcpy(&f1, from + 8, sizeof f1);
    std::memcpy(&f2, from + 16, sizeof f2);
    std::memcpy(&f3, from + 24, sizeof f3);
    const Doubles d0 = __builtin_convertvector(f0, Doubles);
    const Doubles d1 = __builtin_convertvector(f1, Doubles);
    const Doubles d2 = __builtin_convertvector(f2, Doubles);
    const Doubles d3 = __builtin_convertvector(f3, Doubles);
    s0 += d0 * d0;
    s1 += d1 * d1;
    s2 += d2 * d2;
    s3 += d3 * d3;
  }
  const Doubles s = (s0 + s1) + (s2 + s3);
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

inline void SumSquaresBlocks(const SumSquaresArgs& args, int64_t begin, int64_t end) {
  const int64_t n = args.x.num_elements();
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kSumSquaresBlock, left = n - first;
    args.scratch.mutable_data<double>()[block] = SumSquaresOfBlock(
        args.x.data<float>() + first, left < kSumSquaresBlock ? left : kSumSquaresBlock);
  }
}

inline constexpr AdamWTable kAdamWTable = {
    .without_value = {.f32 = AdamWWithoutValue<float>, .bf16 = AdamWWithoutValue<BFloat16>},
    .value_f32 = {.f32 = AdamWWithValue<float, float>, .bf16 = AdamWWithValue<BFloat16, float>},
    .value_bf16 = {.f32 = AdamWWithValue<float, BFloat16>,
                   .bf16 = AdamWWithValue<BFloat16, BFloat16>},
    .sum_squares = SumSquaresBlocks,
};

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
