namespace sluice::kernels::cpu::SLUICE_TARGET {

// Multiplied, then added: two roundings on every target.
template <typename T, bool accumulate>
inline void ScaledAddRows(const ScaledAddArgs& args, int64_t begin, int64_t end) {
  const int64_t width = args.x.extent(1);
  const F32 scale = Set(args.scale);
  for (int64_t r = begin; r < end; ++r) {
    const T* x = args.x.data<T>() + r * args.x.row_stride();
    T* y = args.y.mutable_data<T>() + r * args.y.row_stride();
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      const F32 scaled = Mul(Load(x + i), scale);
      Store(y + i, accumulate ? Add(Load(y + i), scaled) : scaled);
    }
    if (i == width) continue;
    const int rest = static_cast<int>(width - i);
    const F32 scaled = Mul(Load(x + i, rest), scale);
    Store(y + i, accumulate ? Add(Load(y + i, rest), scaled) : scaled, rest);
  }
}

inline constexpr LowRankTable kLowRankTable = {
    .scale = {.f32 = ScaledAddRows<float, false>, .bf16 = ScaledAddRows<BFloat16, false>},
    .scaled_add = {.f32 = ScaledAddRows<float, true>, .bf16 = ScaledAddRows<BFloat16, true>},
};

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
