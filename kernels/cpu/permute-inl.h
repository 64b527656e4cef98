#include "kernels/cpu/reduce-inl.h"

namespace sluice::kernels::cpu::SLUICE_TARGET {

// n lanes of y[t] at column h.
template <typename T>
SLUICE_INLINE void CombineLanes(const CombineRowsArgs& args, int64_t t, int64_t h, int n) {
  const int64_t top = args.row_of.extent(1);
  const int32_t* row_of = args.row_of.data<int32_t>() + t * args.row_of.row_stride();
  const T* rows = args.rows.data<T>() + h;
  F32 sum = Zero();
  if (!args.base.is_null()) sum = Load(args.base.data<T>() + t * args.base.row_stride() + h, n);
  if (args.weights.is_null()) {
    for (int64_t k = 0; k < top; ++k) {
      sum = Add(sum, Load(rows + row_of[k] * args.rows.row_stride(), n));
    }
  } else {
    const float* weights = args.weights.data<float>() + t * args.weights.row_stride();
    for (int64_t k = 0; k < top; ++k) {
      sum = Fused(Set(weights[k]), Load(rows + row_of[k] * args.rows.row_stride(), n), sum);
    }
  }
  Store(args.y.mutable_data<T>() + t * args.y.row_stride() + h, sum, n);
}

template <typename T>
inline void CombineTokens(const CombineRowsArgs& args, int64_t begin, int64_t end) {
  const int64_t width = args.y.extent(1);
  for (int64_t t = begin; t < end; ++t) {
    int64_t h = 0;
    for (; h + kLanes <= width; h += kLanes) CombineLanes<T>(args, t, h, kLanes);
    if (h < width) CombineLanes<T>(args, t, h, static_cast<int>(width - h));
  }
}

// drows = weight * dy; returns dy . rows. drows may be rows.
template <typename T>
inline float ScaleAndDot(const T* dy, const T* rows, T* drows, float weight, int64_t n) {
  const F32 w = Set(weight);
  F32 s0 = Zero(), s1 = Zero();
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const F32 dy0 = Load(dy + i), dy1 = Load(dy + i + kLanes);
    s0 = Fma(dy0, Load(rows + i), s0);
    s1 = Fma(dy1, Load(rows + i + kLanes), s1);
    Store(drows + i, Mul(w, dy0));
    Store(drows + i + kLanes, Mul(w, dy1));
  }
  for (; i < n; i += kLanes) {
    const int rest = n - i < kLanes ? static_cast<int>(n - i) : kLanes;
    const F32 dy0 = Load(dy + i, rest);
    s0 = Fma(dy0, Load(rows + i, rest), s0);
    Store(drows + i, Mul(w, dy0), rest);
  }
  return ReduceAdd(Add(s0, s1));
}

template <typename T>
inline void CombineTokensBackward(const CombineRowsBackwardArgs& args, int64_t begin, int64_t end) {
  const int64_t width = args.dy.extent(1), top = args.row_of.extent(1);
  for (int64_t t = begin; t < end; ++t) {
    const T* dy = args.dy.data<T>() + t * args.dy.row_stride();
    const int32_t* row_of = args.row_of.data<int32_t>() + t * args.row_of.row_stride();
    const float* weights = args.weights.data<float>() + t * args.weights.row_stride();
    float* dweights = args.dweights.mutable_data<float>() + t * args.dweights.row_stride();
    for (int64_t k = 0; k < top; ++k) {
      dweights[k] = ScaleAndDot(dy, args.rows.data<T>() + row_of[k] * args.rows.row_stride(),
                                args.drows.mutable_data<T>() + row_of[k] * args.drows.row_stride(),
                                weights[k], width);
    }
  }
}

inline constexpr PermuteTable kPermuteTable = {
    .combine = {.f32 = CombineTokens<float>, .bf16 = CombineTokens<BFloat16>},
    .combine_backward = {.f32 = CombineTokensBackward<float>,
                         .bf16 = CombineTokensBackward<BFloat16>},
};

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
