namespace sluice::kernels::cpu::SLUICE_TARGET {

// The largest of x, without regard to NaN (they come out of the sum that follows).
inline float RowMax(const float* x, int64_t n) {
  F32 m0 = Set(x[0]), m1 = m0, m2 = m0, m3 = m0;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    m0 = Max(m0, Load(x + i));
    m1 = Max(m1, Load(x + i + kLanes));
    m2 = Max(m2, Load(x + i + 2 * kLanes));
    m3 = Max(m3, Load(x + i + 3 * kLanes));
  }
  for (; i + kLanes <= n; i += kLanes) m0 = Max(m0, Load(x + i));
  float most = ReduceMax(Max(Max(m0, m1), Max(m2, m3)));
  for (; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

// sum of e^(x - most)
inline float SumExp(const float* x, float most, int64_t n) {
  const F32 m = Set(most);
  F32 s0 = Zero(), s1 = Zero(), s2 = Zero(), s3 = Zero();
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    s0 = Add(s0, Exp(Sub(Load(x + i), m)));
    s1 = Add(s1, Exp(Sub(Load(x + i + kLanes), m)));
    s2 = Add(s2, Exp(Sub(Load(x + i + 2 * kLanes), m)));
    s3 = Add(s3, Exp(Sub(Load(x + i + 3 * kLanes), m)));
  }
  for (; i + kLanes <= n; i += kLanes) s0 = Add(s0, Exp(Sub(Load(x + i), m)));
  const float sum = ReduceAdd(Add(Add(s0, s1), Add(s2, s3)));
  if (i == n) return sum;
  const int rest = static_cast<int>(n - i);
  float tail[kLanes] = {};
  Store(tail, Exp(Sub(Load(x + i, rest), m)), rest);
  return sum + ReduceAdd(Load(tail));
}

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
