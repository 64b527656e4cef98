// Backward, in the same transposed form, keys by queries:
//   S^T = K Q^T, P^T = e^(scale S^T - lse), dP^T = V dO^T, dS^T = scale P^T (dP^T - delta),
//   dV += P^T dO, dK += dS^T Q, dQ^T += K^T dS^T,     delta = dO . O of each query.
// Key blocks run in the outer loop, query blocks ascending in the inner one: the order in which dK
// and dV are summed.

namespace sluice::kernels::cpu::SLUICE_TARGET {

struct BackwardState {
  int64_t units = 0, v_units = 0, key_units = 0;  // of a row of K, V, K^T
  int64_t width = 0, v_width = 0;                 // D and V
  int64_t columns = 0, v_columns = 0;             // D and V, rounded up to whole vectors
  uint32_t *k = nullptr, *v = nullptr,
           *kt = nullptr;                  // [length, units] [.., v_units] [D, key_units]
  uint32_t *qt = nullptr, *dot = nullptr;  // per block [units, block], [v_units, block]
  uint32_t *q = nullptr, *dout = nullptr;  // [units of queries, columns]
  float *dk = nullptr, *dv = nullptr,
        *dqt = nullptr;                            // [length, columns] .. , per block [D, block]
  float *log_sum_exp = nullptr, *delta = nullptr;  // [padded length]
  float *s = nullptr, *dp = nullptr;               // [block, block]
  uint32_t *p = nullptr, *ds = nullptr, *ds_keys = nullptr;  // [block, units of queries] twice,
                                                             // [units of keys, block]
  float* bound = nullptr;
};

// One vector of queries from column i on, `keys` keys: scores and dP to P and dS.
template <bool kPairs>
inline void GradientColumns(const BackwardState& state, int64_t query, int64_t i, int64_t keys,
                            float scale, const float* bound) {
  const F32 factor = Set(scale), delta = Load(state.delta + query + i);
  const F32 minus_lse = Sub(Zero(), Load(state.log_sum_exp + query + i));
  const int64_t row_units = UnitsOf<kPairs>(kAttentionBlock), column = UnitsOf<kPairs>(i);
  F32 even = Zero();
  for (int64_t j = 0; j < keys; ++j) {
    const int64_t at = j * kAttentionBlock + i;
    F32 s = Load(state.s + at);
    if (bound != nullptr) s = Min(s, Load(bound + i - j));
    const F32 p = Exp(Fma(s, factor, minus_lse));
    const F32 ds = Mul(Mul(p, factor), Sub(Load(state.dp + at), delta));
    StoreAlong<kPairs>(state.p + j * row_units + column, p);
    StoreAlong<kPairs>(state.ds + j * row_units + column, ds);
    if constexpr (kPairs) {
      if (j % 2 == 1) StoreUnits<kPairs>(state.ds_keys + j / 2 * kAttentionBlock + i, even, ds);
      even = ds;
    }
  }
  if (kPairs && keys % 2 == 1) {
    StoreUnits<kPairs>(state.ds_keys + keys / 2 * kAttentionBlock + i, even, Zero());
  }
}

// P and dS of one block of keys and queries [query, query + block), and dQ.
template <bool kPairs>
inline void ScoreGradients(const BackwardState& state, int64_t kb, int64_t qb, int64_t keys,
                           float scale) {
  const int64_t first_key = kb * kAttentionBlock;
  for (int64_t strip = 0; strip < kAttentionBlock; strip += kStrip) {
    const bool diagonal = kb == qb;
    const int64_t seen = diagonal && strip + kStrip < keys ? strip + kStrip : keys;
    SmallMatmulArgs product = {.a = state.k + first_key * state.units,
                               .a_stride = state.units,
                               .b = state.qt + qb * state.units * kAttentionBlock + strip,
                               .b_stride = kAttentionBlock,
                               .c = state.s + strip,
                               .c_stride = kAttentionBlock,
                               .rows = seen,
                               .columns = kStrip,
                               .units = state.units};
    SmallMatmul<kPairs>(product);
    product.a = state.v + first_key * state.v_units;
    product.a_stride = product.units = state.v_units;
    product.b = state.dot + qb * state.v_units * kAttentionBlock + strip;
    product.c = state.dp + strip;
    SmallMatmul<kPairs>(product);
    const float* bound = diagonal ? state.bound + kAttentionBlock : nullptr;
    for (int64_t i = strip; i < strip + kStrip; i += kLanes) {
      GradientColumns<kPairs>(state, qb * kAttentionBlock, i, seen, scale, bound);
    }
    SmallMatmul<kPairs>({.a = state.kt + UnitsOf<kPairs>(first_key),
                         .a_stride = state.key_units,
                         .b = (kPairs ? state.ds_keys : state.ds) + strip,
                         .b_stride = kAttentionBlock,
                         .c = state.dqt + qb * state.width * kAttentionBlock + strip,
                         .c_stride = kAttentionBlock,
                         .rows = state.width,
                         .columns = kStrip,
                         .units = UnitsOf<kPairs>(seen),
                         .accumulate = kb > 0});
  }
}

// dK and dV of one block of keys from one block of queries.
template <bool kPairs>
inline void KeyGradients(const BackwardState& state, int64_t kb, int64_t qb, int64_t keys) {
  const int64_t first_key = kb * kAttentionBlock, row_units = UnitsOf<kPairs>(kAttentionBlock);
  // On the diagonal, the queries before the strip of a key do not see it.
  const int64_t step = kb == qb ? kStrip : kAttentionBlock;
  for (int64_t row = 0; row < keys; row += step) {
    const int64_t skipped = UnitsOf<kPairs>(row), query = UnitsOf<kPairs>(qb * kAttentionBlock);
    const int64_t rows = keys - row < step ? keys - row : step;
    SmallMatmulArgs product = {.a = state.p + row * row_units + skipped,
                               .a_stride = row_units,
                               .b = state.dout + (query + skipped) * state.v_columns,
                               .b_stride = state.v_columns,
                               .c = state.dv + (first_key + row) * state.v_columns,
                               .c_stride = state.v_columns,
                               .rows = rows,
                               .columns = state.v_columns,
                               .units = row_units - skipped,
                               .accumulate = true};
    SmallMatmul<kPairs>(product);
    product.a = state.ds + row * row_units + skipped;
    product.b = state.q + (query + skipped) * state.columns;
    product.c = state.dk + (first_key + row) * state.columns;
    product.b_stride = product.c_stride = product.columns = state.columns;
    SmallMatmul<kPairs>(product);
  }
}

// What the products of one head read: Q and dO in both layouts, lse and delta.
template <typename T, bool kPairs>
inline void PackHead(const AttentionBackwardArgs& args, const AttentionTask& task,
                     const BackwardState& state, int64_t head) {
  const float* log_sum_exp = args.log_sum_exp.data<float>();
  for (int64_t begin = 0, qb = 0; begin < task.length; begin += kAttentionBlock, ++qb) {
    const int64_t left = task.length - begin, token = task.first_token + begin;
    const int64_t queries = left < kAttentionBlock ? left : kAttentionBlock;
    const HeadRows<T> q = RowsOfHead<T>(args.q, token, queries, head);
    const HeadRows<T> dout = RowsOfHead<T>(args.dout, token, queries, head);
    const HeadRows<T> o = RowsOfHead<T>(args.o, token, queries, head);
    PackRowsTransposed<kPairs>(q, state.qt + qb * state.units * kAttentionBlock);
    PackRowsTransposed<kPairs>(dout, state.dot + qb * state.v_units * kAttentionBlock);
    const int64_t unit = UnitsOf<kPairs>(begin);
    PackColumns<kPairs>(q, kAttentionBlock, state.columns, state.q + unit * state.columns);
    PackColumns<kPairs>(dout, kAttentionBlock, state.v_columns,
                        state.dout + unit * state.v_columns);
    for (int64_t i = 0; i < kAttentionBlock; ++i) {
      const bool real = i < queries;  // past the end, P = e^-infinity = 0
      state.log_sum_exp[begin + i] =
          real ? log_sum_exp[(token + i) * args.log_sum_exp.row_stride() + head] : __builtin_inff();
      state.delta[begin + i] =
          real ? DotProduct(dout.data + i * dout.stride, o.data + i * o.stride, state.v_width)
               : 0.0f;
    }
  }
}

template <typename T, bool kPairs>
inline void BackwardHead(const AttentionBackwardArgs& args, const AttentionTask& task,
                         const BackwardState& state, int64_t head) {
  PackHead<T, kPairs>(args, task, state, head);
  const int64_t blocks = (task.length + kAttentionBlock - 1) / kAttentionBlock;
  for (int64_t kb = 0; kb < blocks; ++kb) {
    const int64_t left = task.length - kb * kAttentionBlock;
    const int64_t keys = left < kAttentionBlock ? left : kAttentionBlock;
    for (int64_t qb = kb; qb < blocks; ++qb) {
      ScoreGradients<kPairs>(state, kb, qb, keys, args.scale);
      KeyGradients<kPairs>(state, kb, qb, keys);
    }
  }
  float ones[kAttentionBlock];
  for (float& one : ones) one = 1.0f;
  for (int64_t qb = 0; qb < blocks; ++qb) {
    const int64_t left = task.length - qb * kAttentionBlock;
    const int64_t queries = left < kAttentionBlock ? left : kAttentionBlock;
    UnpackTransposed(
        state.dqt + qb * state.width * kAttentionBlock, ones,
        RowsOfHead<T>(args.dq, task.first_token + qb * kAttentionBlock, queries, head));
  }
}

template <typename T>
inline void StoreRows(const float* from, int64_t from_stride, const TensorView& to,
                      const AttentionTask& task) {
  const int64_t width = to.extent(2);
  for (int64_t r = 0; r < task.length; ++r) {
    T* row = to.mutable_data<T>() + (task.first_token + r) * to.row_stride() + task.kv_head * width;
    for (int64_t c = 0; c < width; c += kLanes) {
      const int n = width - c < kLanes ? static_cast<int>(width - c) : kLanes;
      Store(row + c, Load(from + r * from_stride + c, n), n);
    }
  }
}

template <typename T>
inline void AttentionBackwardTask(const AttentionBackwardArgs& args, const AttentionTask& task) {
  constexpr bool kPairs = SLUICE_HAS_BF16_DOT && std::is_same_v<T, BFloat16>;
  const int64_t width = args.q.extent(2), v_width = args.v.extent(2);
  const int64_t padded = (task.length + kAttentionBlock - 1) / kAttentionBlock * kAttentionBlock;
  BackwardState state = {.units = UnitsOf<kPairs>(width),
                         .v_units = UnitsOf<kPairs>(v_width),
                         .key_units = UnitsOf<kPairs>(padded),
                         .width = width,
                         .v_width = v_width,
                         .columns = (width + kLanes - 1) / kLanes * kLanes,
                         .v_columns = (v_width + kLanes - 1) / kLanes * kLanes};
  WordArena arena(task.scratch);
  state.k = arena.Take(task.length * state.units);
  state.v = arena.Take(task.length * state.v_units);
  state.kt = arena.Take(width * state.key_units);
  state.qt = arena.Take(padded * state.units);
  state.dot = arena.Take(padded * state.v_units);
  state.q = arena.Take(padded * state.columns);
  state.dout = arena.Take(padded * state.v_columns);
  state.dk = arena.TakeFloats(padded * state.columns);
  state.dv = arena.TakeFloats(padded * state.v_columns);
  state.dqt = arena.TakeFloats(padded * width);
  state.log_sum_exp = arena.TakeFloats(padded);
  state.delta = arena.TakeFloats(padded);
  state.s = arena.TakeFloats(kAttentionBlock * kAttentionBlock);
  state.dp = arena.TakeFloats(kAttentionBlock * kAttentionBlock);
  state.p = arena.Take(kAttentionBlock * kAttentionBlock);
  state.ds = arena.Take(kAttentionBlock * kAttentionBlock);
  state.ds_keys = arena.Take(kAttentionBlock * kAttentionBlock);
  state.bound = arena.TakeFloats(2 * kAttentionBlock);
  FillCausalBound(state.bound);
  const HeadRows<T> k = RowsOfHead<T>(args.k, task.first_token, task.length, task.kv_head);
  PackRows<kPairs>(k, state.k);
  PackColumnsTransposed<kPairs>(k, padded, state.kt);
  PackRows<kPairs>(RowsOfHead<T>(args.v, task.first_token, task.length, task.kv_head), state.v);
  std::memset(state.dk, 0, static_cast<size_t>(padded * state.columns) * sizeof(float));
  std::memset(state.dv, 0, static_cast<size_t>(padded * state.v_columns) * sizeof(float));
  const int64_t group = args.q.extent(1) / args.k.extent(1);
  for (int64_t head = task.kv_head * group; head < (task.kv_head + 1) * group; ++head) {
    BackwardHead<T, kPairs>(args, task, state, head);
  }
  StoreRows<T>(state.dk, state.columns, args.dk, task);
  StoreRows<T>(state.dv, state.v_columns, args.dv, task);
}

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
