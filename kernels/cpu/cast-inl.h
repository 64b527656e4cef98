namespace sluice::kernels::cpu::SLUICE_TARGET {

template <typename From, typename To>
SLUICE_INLINE void CastSpan(const From* from, To* to, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(to + i, Load(from + i));
  if (i < n) Store(to + i, Load(from + i, static_cast<int>(n - i)), static_cast<int>(n - i));
}

template <typename From, typename To>
inline void CastElements(const CastArgs& args, int64_t begin, int64_t end) {
  CastSpan(args.from.data<From>() + begin, args.to.mutable_data<To>() + begin, end - begin);
}

template <typename From, typename To>
inline void CastRows(const CastArgs& args, int64_t begin, int64_t end) {
  const int64_t width = args.from.shape().elements_per_row();
  for (int64_t r = begin; r < end; ++r) {
    CastSpan(args.from.data<From>() + r * args.from.row_stride(),
             args.to.mutable_data<To>() + r * args.to.row_stride(), width);
  }
}

template <typename T>
inline void AddElements(const AddArgs& args, int64_t begin, int64_t end) {
  const T *a = args.a.data<T>(), *b = args.b.data<T>();
  T* y = args.y.mutable_data<T>();
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) Store(y + i, Add(Load(a + i), Load(b + i)));
  if (i < end) {
    const int rest = static_cast<int>(end - i);
    Store(y + i, Add(Load(a + i, rest), Load(b + i, rest)), rest);
  }
}

inline constexpr CastTable kCastTable = {
    .to_f32 = {.f32 = CastElements<float, float>, .bf16 = CastElements<BFloat16, float>},
    .to_bf16 = {.f32 = CastElements<float, BFloat16>, .bf16 = CastElements<BFloat16, BFloat16>},
    .rows_to_f32 = {.f32 = CastRows<float, float>, .bf16 = CastRows<BFloat16, float>},
    .rows_to_bf16 = {.f32 = CastRows<float, BFloat16>, .bf16 = CastRows<BFloat16, BFloat16>},
    .add = {.f32 = AddElements<float>, .bf16 = AddElements<BFloat16>},
};

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
