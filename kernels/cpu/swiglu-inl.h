namespace sluice::kernels::cpu::SLUICE_TARGET {

template <typename T>
SLUICE_INLINE void SwigluVector(const T* gate, const T* up, T* y, int n) {
  Store(y, Mul(Silu(Load(gate, n)), Load(up, n)), n);
}

template <typename T>
inline void SwigluRows(const SwigluArgs& args, int64_t begin, int64_t end) {
  const int64_t width = args.y.extent(1);
  for (int64_t t = begin; t < end; ++t) {
    const T* gate = args.gate_up.data<T>() + t * args.gate_up.row_stride();
    T* y = args.y.mutable_data<T>() + t * args.y.row_stride();
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      Store(y + i, Mul(Silu(Load(gate + i)), Load(gate + width + i)));
    }
    if (i < width) SwigluVector(gate + i, gate + width + i, y + i, static_cast<int>(width - i));
  }
}

struct SwigluGradient {
  F32 gate, up;
};

SLUICE_INLINE SwigluGradient GradientOfSwiglu(F32 dy, F32 gate, F32 up) {
  const F32 sigmoid = Sigmoid(gate);
  return {Mul(Mul(dy, up), SiluSlope(gate, sigmoid)), Mul(dy, Mul(gate, sigmoid))};
}

template <typename T>
inline void SwigluBackwardRows(const SwigluBackwardArgs& args, int64_t begin, int64_t end) {
  const int64_t width = args.dy.extent(1);
  for (int64_t t = begin; t < end; ++t) {
    const T* dy = args.dy.data<T>() + t * args.dy.row_stride();
    const T* gate = args.gate_up.data<T>() + t * args.gate_up.row_stride();
    T* dgate = args.dgate_up.mutable_data<T>() + t * args.dgate_up.row_stride();
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      const SwigluGradient g =
          GradientOfSwiglu(Load(dy + i), Load(gate + i), Load(gate + width + i));
      Store(dgate + i, g.gate);
      Store(dgate + width + i, g.up);
    }
    if (i < width) {
      const int rest = static_cast<int>(width - i);
      const SwigluGradient g =
          GradientOfSwiglu(Load(dy + i, rest), Load(gate + i, rest), Load(gate + width + i, rest));
      Store(dgate + i, g.gate, rest);
      Store(dgate + width + i, g.up, rest);
    }
  }
}

inline constexpr SwigluTable kSwigluTable = {
    .forward = {.f32 = SwigluRows<float>, .bf16 = SwigluRows<BFloat16>},
    .backward = {.f32 = SwigluBackwardRows<float>, .bf16 = SwigluBackwardRows<BFloat16>},
};

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
