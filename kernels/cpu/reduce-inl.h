// Sums along a row: four partial sums of kLanes each, added as a tree. The order depends on the
// length of the row and on the target alone.

namespace sluice::kernels::cpu::SLUICE_TARGET {

SLUICE_INLINE float ReduceAdd(F32 a, F32 b, F32 c, F32 d) {
  return ReduceAdd(Add(Add(a, b), Add(c, d)));
}

// sum of a[i] * b[i]
template <typename A, typename B>
inline float DotProduct(const A* a, const B* b, int64_t n) {
  F32 s0 = Zero(), s1 = Zero(), s2 = Zero(), s3 = Zero();
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    s0 = Fma(Load(a + i), Load(b + i), s0);
    s1 = Fma(Load(a + i + kLanes), Load(b + i + kLanes), s1);
    s2 = Fma(Load(a + i + 2 * kLanes), Load(b + i + 2 * kLanes), s2);
    s3 = Fma(Load(a + i + 3 * kLanes), Load(b + i + 3 * kLanes), s3);
  }
  for (; i + kLanes <= n; i += kLanes) s0 = Fma(Load(a + i), Load(b + i), s0);
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    s1 = Fma(Load(a + i, rest), Load(b + i, rest), s1);
  }
  return ReduceAdd(s0, s1, s2, s3);
}

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
