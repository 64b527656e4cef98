#include "kernels/cpu/reduce-inl.h"

namespace sluice::kernels::cpu::SLUICE_TARGET {

// out = x + residual rounded to T; returns the sum of squares of what was stored.
template <typename T>
inline float AddResidual(const T* x, const T* residual, T* out, int64_t width) {
  int64_t h = 0;
  for (; h + kLanes <= width; h += kLanes) Store(out + h, Add(Load(x + h), Load(residual + h)));
  if (h < width) {
    const int rest = static_cast<int>(width - h);
    Store(out + h, Add(Load(x + h, rest), Load(residual + h, rest)), rest);
  }
  return DotProduct(out, out, width);
}

template <typename T>
inline void RmsNormRows(const RmsNormArgs& args, int64_t begin, int64_t end) {
  const int64_t width = args.x.extent(1);
  const T* w = args.w.data<T>();
  float* inverse_rms = args.inverse_rms.mutable_data<float>();
  for (int64_t t = begin; t < end; ++t) {
    const T* x = args.x.data<T>() + t * args.x.row_stride();
    T* y = args.y.mutable_data<T>() + t * args.y.row_stride();
    float sum = 0.0f;
    if (args.residual.is_null()) {
      sum = DotProduct(x, x, width);
    } else {
      T* out = args.residual_out.mutable_data<T>() + t * args.residual_out.row_stride();
      sum = AddResidual(x, args.residual.data<T>() + t * args.residual.row_stride(), out, width);
      x = out;
    }
    const float scale = 1.0f / __builtin_sqrtf(sum / static_cast<float>(width) + args.eps);
    inverse_rms[t] = scale;
    const F32 r = Set(scale);
    int64_t h = 0;
    for (; h + kLanes <= width; h += kLanes) {
      Store(y + h, Mul(Mul(Load(x + h), r), Load(w + h)));
    }
    if (h < width) {
      const int rest = static_cast<int>(width - h);
      Store(y + h, Mul(Mul(Load(x + h, rest), r), Load(w + h, rest)), rest);
    }
  }
}

// sum of dy * w * x
template <typename T>
inline float WeightedDot(const T* dy, const T* w, const T* x, int64_t n) {
  F32 s0 = Zero(), s1 = Zero(), s2 = Zero(), s3 = Zero();
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    const int64_t i1 = i + kLanes, i2 = i + 2 * kLanes, i3 = i + 3 * kLanes;
    s0 = Fma(Mul(Load(dy + i), Load(w + i)), Load(x + i), s0);
    s1 = Fma(Mul(Load(dy + i1), Load(w + i1)), Load(x + i1), s1);
    s2 = Fma(Mul(Load(dy + i2), Load(w + i2)), Load(x + i2), s2);
    s3 = Fma(Mul(Load(dy + i3), Load(w + i3)), Load(x + i3), s3);
  }
  for (; i + kLanes <= n; i += kLanes) {
    s0 = Fma(Mul(Load(dy + i), Load(w + i)), Load(x + i), s0);
  }
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    s1 = Fma(Mul(Load(dy + i, rest), Load(w + i, rest)), Load(x + i, rest), s1);
  }
  return ReduceAdd(s0, s1, s2, s3);
}

// dx = r dy w - x r^3 dot / H (+ dx_add)
template <typename T>
inline void RmsNormBackwardInputRows(const RmsNormBackwardInputArgs& args, int64_t begin,
                                     int64_t end) {
  const int64_t width = args.x.extent(1);
  const T* w = args.w.data<T>();
  const bool add = !args.dx_add.is_null();
  for (int64_t t = begin; t < end; ++t) {
    const T* dy = args.dy.data<T>() + t * args.dy.row_stride();
    const T* x = args.x.data<T>() + t * args.x.row_stride();
    const T* dx_add = add ? args.dx_add.data<T>() + t * args.dx_add.row_stride() : nullptr;
    T* dx = args.dx.mutable_data<T>() + t * args.dx.row_stride();
    const float scale = args.inverse_rms.data<float>()[t];
    const float dot = WeightedDot(dy, w, x, width);
    const F32 r = Set(scale), c = Set(-scale * scale * scale * (dot / static_cast<float>(width)));
    int64_t h = 0;
    for (; h + kLanes <= width; h += kLanes) {
      F32 value = Fma(Load(x + h), c, Mul(Mul(Load(dy + h), Load(w + h)), r));
      if (add) value = Add(value, Load(dx_add + h));
      Store(dx + h, value);
    }
    if (h < width) {
      const int rest = static_cast<int>(width - h);
      F32 value = Fma(Load(x + h, rest), c, Mul(Mul(Load(dy + h, rest), Load(w + h, rest)), r));
      if (add) value = Add(value, Load(dx_add + h, rest));
      Store(dx + h, value, rest);
    }
  }
}

inline constexpr int64_t kRowsPerBlock = 64;  // part of the op's contract

// The next n columns of dw.
template <typename T>
SLUICE_INLINE void WeightGradientColumns(const RmsNormBackwardWeightArgs& args, int64_t column,
                                         int n) {
  const int64_t rows = args.x.extent(0);
  const T *dy = args.dy.data<T>() + column, *x = args.x.data<T>() + column;
  const float* inverse_rms = args.inverse_rms.data<float>();
  float* dw = args.dw.mutable_data<float>() + column;
  F32 total = Load(dw, n);
  for (int64_t block = 0; block < rows; block += kRowsPerBlock) {
    const int64_t block_end = block + kRowsPerBlock < rows ? block + kRowsPerBlock : rows;
    F32 sum = Zero();
    for (int64_t t = block; t < block_end; ++t) {
      const F32 a = Load(dy + t * args.dy.row_stride(), n);
      const F32 b = Load(x + t * args.x.row_stride(), n);
      sum = Fma(a, Mul(b, Set(inverse_rms[t])), sum);
    }
    total = Add(total, sum);
  }
  Store(dw, total, n);
}

template <typename T>
inline void RmsNormBackwardWeightColumns(const RmsNormBackwardWeightArgs& args, int64_t begin,
                                         int64_t end) {
  for (int64_t column = begin; column < end; column += kLanes) {
    const int64_t left = end - column;
    WeightGradientColumns<T>(args, column, static_cast<int>(left < kLanes ? left : kLanes));
  }
}

inline constexpr RmsNormTable kRmsNormTable = {
    .forward = {.f32 = RmsNormRows<float>, .bf16 = RmsNormRows<BFloat16>},
    .backward_input = {.f32 = RmsNormBackwardInputRows<float>,
                       .bf16 = RmsNormBackwardInputRows<BFloat16>},
    .backward_weight = {.f32 = RmsNormBackwardWeightColumns<float>,
                        .bf16 = RmsNormBackwardWeightColumns<BFloat16>},
};

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
