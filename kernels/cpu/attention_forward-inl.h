// Forward. Blocks of scores are computed transposed, keys by queries, so that the softmax runs
// along the vectors' lanes and needs no shuffle: S^T = K Q^T, O^T += V^T P^T.

namespace sluice::kernels::cpu::SLUICE_TARGET {

// Queries that are worked on together; on the diagonal, keys past them are skipped.
inline constexpr int64_t kStrip = 32;

// What one sequence and head keep between blocks.
struct ForwardState {
  int64_t units = 0, key_units = 0;     // of a row; of a row of V^T
  uint32_t *k = nullptr, *v = nullptr;  // [length, units], [V, key_units]
  uint32_t *q = nullptr, *p = nullptr;  // [units, block], [units of keys, block]
  float *s = nullptr, *o = nullptr;     // [block, block], [V, block]
  float *most = nullptr, *sum = nullptr, *rescale = nullptr;  // [block]
  float* bound = nullptr;
};

// One vector of queries from column i on: scores of `keys` keys become weights relative to the new
// maximum. `bound` is null off the diagonal.
template <bool kPairs>
inline void SoftmaxColumns(const ForwardState& state, int64_t i, int64_t keys, float scale,
                           const float* bound) {
  float* s = state.s + i;
  F32 m0 = Set(-__builtin_inff()), m1 = m0;
  if (bound != nullptr) {
    for (int64_t j = 0; j < keys; ++j) {
      const F32 masked = Min(Load(s + j * kAttentionBlock), Load(bound + i - j));
      Store(s + j * kAttentionBlock, masked);
      m0 = Max(m0, masked);
    }
  } else {
    int64_t j = 0;
    for (; j + 2 <= keys; j += 2) {
      m0 = Max(m0, Load(s + j * kAttentionBlock));
      m1 = Max(m1, Load(s + (j + 1) * kAttentionBlock));
    }
    if (j < keys) m0 = Max(m0, Load(s + j * kAttentionBlock));
  }
  const F32 factor = Set(scale), old = Load(state.most + i);
  const F32 most = Max(old, Mul(factor, Max(m0, m1))), minus_most = Sub(Zero(), most);
  const F32 rescale = Exp(Sub(old, most));
  F32 sum0 = Zero(), sum1 = Zero();
  int64_t j = 0;
  for (; j + 2 <= keys; j += 2) {
    const F32 p0 = Exp(Fma(Load(s + j * kAttentionBlock), factor, minus_most));
    const F32 p1 = Exp(Fma(Load(s + (j + 1) * kAttentionBlock), factor, minus_most));
    sum0 = Add(sum0, p0);
    sum1 = Add(sum1, p1);
    StoreUnits<kPairs>(state.p + UnitsOf<kPairs>(j) * kAttentionBlock + i, p0, p1);
  }
  if (j < keys) {
    const F32 p0 = Exp(Fma(Load(s + j * kAttentionBlock), factor, minus_most));
    sum0 = Add(sum0, p0);
    StoreUnits<kPairs>(state.p + UnitsOf<kPairs>(j) * kAttentionBlock + i, p0, Zero());
  }
  Store(state.most + i, most);
  Store(state.sum + i, Fma(Load(state.sum + i), rescale, Add(sum0, sum1)));
  Store(state.rescale + i, rescale);
}

// One block of queries against the keys of block `kb`, of which there are `keys`.
template <bool kPairs>
inline void ForwardBlock(const ForwardState& state, int64_t kb, int64_t keys, bool diagonal,
                         float scale, int64_t v_width) {
  for (int64_t strip = 0; strip < kAttentionBlock; strip += kStrip) {
    const int64_t seen = diagonal && strip + kStrip < keys ? strip + kStrip : keys;
    SmallMatmul<kPairs>({.a = state.k + kb * kAttentionBlock * state.units,
                         .a_stride = state.units,
                         .b = state.q + strip,
                         .b_stride = kAttentionBlock,
                         .c = state.s + strip,
                         .c_stride = kAttentionBlock,
                         .rows = seen,
                         .columns = kStrip,
                         .units = state.units});
    const float* bound = diagonal ? state.bound + kAttentionBlock : nullptr;
    for (int64_t i = strip; i < strip + kStrip; i += kLanes) {
      SoftmaxColumns<kPairs>(state, i, seen, scale, bound);
    }
    SmallMatmul<kPairs>({.a = state.v + kb * UnitsOf<kPairs>(kAttentionBlock),
                         .a_stride = state.key_units,
                         .b = state.p + strip,
                         .b_stride = kAttentionBlock,
                         .c = state.o + strip,
                         .c_stride = kAttentionBlock,
                         .rows = v_width,
                         .columns = kStrip,
                         .units = UnitsOf<kPairs>(seen),
                         .accumulate = kb > 0,
                         .c_scale = kb > 0 ? state.rescale + strip : nullptr});
  }
}

template <typename T, bool kPairs>
inline void ForwardHead(const AttentionArgs& args, const AttentionTask& task,
                        const ForwardState& state, int64_t head) {
  const int64_t v_width = args.v.extent(2);
  float* log_sum_exp = args.log_sum_exp.mutable_data<float>();
  for (int64_t begin = 0, qb = 0; begin < task.length; begin += kAttentionBlock, ++qb) {
    const int64_t left = task.length - begin;
    const int64_t queries = left < kAttentionBlock ? left : kAttentionBlock;
    const int64_t token = task.first_token + begin;
    PackRowsTransposed<kPairs>(RowsOfHead<T>(args.q, token, queries, head), state.q);
    for (int64_t i = 0; i < kAttentionBlock; ++i) {
      state.most[i] = -__builtin_inff();
      state.sum[i] = 0.0f;
    }
    for (int64_t kb = 0; kb <= qb; ++kb) {
      ForwardBlock<kPairs>(state, kb, kb < qb ? kAttentionBlock : queries, kb == qb, args.scale,
                           v_width);
    }
    for (int64_t i = 0; i < queries; ++i) {
      log_sum_exp[(token + i) * args.log_sum_exp.row_stride() + head] = static_cast<float>(
          static_cast<double>(state.most[i]) + std::log(static_cast<double>(state.sum[i])));
      state.sum[i] = 1.0f / state.sum[i];
    }
    UnpackTransposed(state.o, state.sum, RowsOfHead<T>(args.o, token, queries, head));
  }
}

template <typename T>
inline void AttentionForward(const AttentionArgs& args, const AttentionTask& task) {
  constexpr bool kPairs = SLUICE_HAS_BF16_DOT && std::is_same_v<T, BFloat16>;
  const int64_t width = args.q.extent(2), v_width = args.v.extent(2);
  const int64_t padded = (task.length + kAttentionBlock - 1) / kAttentionBlock * kAttentionBlock;
  ForwardState state = {.units = UnitsOf<kPairs>(width), .key_units = UnitsOf<kPairs>(padded)};
  WordArena arena(task.scratch);
  state.k = arena.Take(task.length * state.units);
  state.v = arena.Take(v_width * state.key_units);
  state.q = arena.Take(state.units * kAttentionBlock);
  // One row more: without kPairs, the last odd key is followed by a row of zeros.
  state.p = arena.Take((kAttentionBlock + 1) * kAttentionBlock);
  state.s = arena.TakeFloats(kAttentionBlock * kAttentionBlock);
  state.o = arena.TakeFloats(v_width * kAttentionBlock);
  state.most = arena.TakeFloats(kAttentionBlock);
  state.sum = arena.TakeFloats(kAttentionBlock);
  state.rescale = arena.TakeFloats(kAttentionBlock);
  state.bound = arena.TakeFloats(2 * kAttentionBlock);
  FillCausalBound(state.bound);
  PackRows<kPairs>(RowsOfHead<T>(args.k, task.first_token, task.length, task.kv_head), state.k);
  PackColumnsTransposed<kPairs>(RowsOfHead<T>(args.v, task.first_token, task.length, task.kv_head),
                                padded, state.v);
  const int64_t group = args.q.extent(1) / args.k.extent(1);
  for (int64_t head = task.kv_head * group; head < (task.kv_head + 1) * group; ++head) {
    ForwardHead<T, kPairs>(args, task, state, head);
  }
}

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
