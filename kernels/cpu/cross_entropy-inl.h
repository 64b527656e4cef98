#include "kernels/cpu/softmax-inl.h"

namespace sluice::kernels::cpu::SLUICE_TARGET {

// to[v] = scale * e^(x[v] - most) / sum, then - scale at the target. `to` may be x.
template <typename T>
inline void WriteGradient(const float* x, T* to, int64_t n, float most, float factor) {
  const F32 m = Set(most), f = Set(factor);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(to + i, Mul(f, Exp(Sub(Load(x + i), m))));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    Store(to + i, Mul(f, Exp(Sub(Load(x + i, rest), m))), rest);
  }
}

SLUICE_INLINE void SetElement(float* to, float value) { *to = value; }
SLUICE_INLINE void SetElement(BFloat16* to, float value) { *to = ToBFloat16(value); }

template <typename T>
inline void CrossEntropyRow(const CrossEntropyArgs& args, int64_t c) {
  const int64_t vocabulary = args.logits.extent(1);
  const float* x = args.logits.data<float>() + c * args.logits.row_stride();
  float* loss = args.loss.mutable_data<float>() + c;
  const int64_t target = args.targets.data<int32_t>()[c];
  const bool gradient = !args.dlogits.is_null();
  T* to = gradient ? args.dlogits.mutable_data<T>() + c * args.dlogits.row_stride() : nullptr;
  if (target < 0) {
    *loss = 0.0f;
    if (gradient) std::memset(static_cast<void*>(to), 0, static_cast<size_t>(vocabulary) * sizeof(T));
    return;
  }
  const float most = RowMax(x, vocabulary), sum = SumExp(x, most, vocabulary);
  const float at_target = x[target];
  // In this order nothing cancels when the target is by far the likeliest.
  *loss = static_cast<float>(std::log(static_cast<double>(sum)) +
                             (static_cast<double>(most) - at_target));
  if (!gradient) return;
  // 1 - p summed in double: near p = 1 a float would lose it.
  const double p = std::exp(static_cast<double>(at_target) - most) / static_cast<double>(sum);
  WriteGradient(x, to, vocabulary, most, args.scale / sum);
  SetElement(to + target, static_cast<float>(static_cast<double>(args.scale) * (p - 1.0)));
}

template <typename T>
inline void CrossEntropyRows(const CrossEntropyArgs& args, int64_t begin, int64_t end) {
  for (int64_t c = begin; c < end; ++c) CrossEntropyRow<T>(args, c);
}

inline constexpr CrossEntropyTable kCrossEntropyTable = {
    .rows = {.f32 = CrossEntropyRows<float>, .bf16 = CrossEntropyRows<BFloat16>},
};

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
