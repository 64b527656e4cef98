// What the kernels of attention are given: those with FP32 arithmetic (attention.cu) and those with
// tensor instructions (attention_mma*). Shapes: kernels/ops/attention.h.
#pragma once

#include <cstdint>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/ops/attention.h"

namespace sluice::kernels::cuda {

inline constexpr int kMostHeadWidth = 256;

// Element (t, head, i) lies at data + t * stride + head * width + i.
template <typename T>
struct Heads {
  T* data;
  int64_t stride, width;
  bool is_aligned;  // every head of every token begins at a multiple of 16 bytes
  __device__ T* At(int64_t token, int64_t head) const {
    return data + token * stride + head * width;
  }
};

template <typename T>
Heads<T> HeadsAt(T* data, const ConstTensorView& view) {
  constexpr int64_t kVector = 16 / static_cast<int64_t>(sizeof(T));
  const int64_t stride = view.row_stride(), width = view.extent(2);
  const bool is_aligned =
      reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % kVector == 0 && width % kVector == 0;
  return {data, stride, width, is_aligned};
}
template <typename T>
Heads<const T> HeadsOf(const ConstTensorView& view) {
  return HeadsAt(static_cast<const T*>(view.raw_data()), view);
}
template <typename T>
Heads<T> MutableHeadsOf(const TensorView& view) {
  return HeadsAt(static_cast<T*>(view.raw_mutable_data()), view);
}

template <typename T>
struct AttentionParameters {
  Heads<const T> q, k, v;
  Heads<T> o;
  Rows<float> log_sum_exp;
  const int32_t* starts;
  int64_t tokens, sequences, queries_per_key;
  float scale;
};

template <typename T>
AttentionParameters<T> ParametersOf(const AttentionArgs& args) {
  return {.q = HeadsOf<T>(args.q),
          .k = HeadsOf<T>(args.k),
          .v = HeadsOf<T>(args.v),
          .o = MutableHeadsOf<T>(args.o),
          .log_sum_exp = MutableRowsOf<float>(args.log_sum_exp),
          .starts = args.starts.data<int32_t>(),
          .tokens = args.q.extent(0),
          .sequences = args.starts.extent(0) - 1,
          .queries_per_key = args.q.extent(1) / args.k.extent(1),
          .scale = args.scale};
}

template <typename T>
struct AttentionBackwardParameters {
  Heads<const T> q, k, v, o, dout;
  Heads<T> dq, dk, dv;
  Rows<const float> log_sum_exp;
  const int32_t* starts;
  int64_t tokens, sequences, queries_per_key;
  float scale;
};

template <typename T>
AttentionBackwardParameters<T> ParametersOf(const AttentionBackwardArgs& args) {
  return {.q = HeadsOf<T>(args.q),
          .k = HeadsOf<T>(args.k),
          .v = HeadsOf<T>(args.v),
          .o = HeadsOf<T>(args.o),
          .dout = HeadsOf<T>(args.dout),
          .dq = MutableHeadsOf<T>(args.dq),
          .dk = MutableHeadsOf<T>(args.dk),
          .dv = MutableHeadsOf<T>(args.dv),
          .log_sum_exp = RowsOf<float>(args.log_sum_exp),
          .starts = args.starts.data<int32_t>(),
          .tokens = args.q.extent(0),
          .sequences = args.starts.extent(0) - 1,
          .queries_per_key = args.q.extent(1) / args.k.extent(1),
          .scale = args.scale};
}

// The ops for BF16 tensors of any width up to kMostHeadWidth.
void AttentionByTensorCores(Stream& stream, const AttentionArgs& args);
// By Hopper's own instructions: false, having done nothing, for other widths than (192, 128), (128,
// 128) and (64, 64), for rows that TMA cannot copy, and on a stream of mma.sync only.
bool AttentionByWgmma(Stream& stream, const AttentionArgs& args);
// The same for the gradients, with args.scratch.
bool AttentionBackwardByWgmma(Stream& stream, const AttentionBackwardArgs& args);
void AttentionBackwardByTensorCores(Stream& stream, const AttentionBackwardArgs& args);

}  // namespace sluice::kernels::cuda
