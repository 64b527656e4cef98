// A block a row; the row's sums do not depend on how many rows there are.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;

template <typename T>
struct ForwardParameters {
  Rows<const T> x, residual;
  const T* w;
  Rows<T> y, residual_out;
  float* inverse_rms;
  float eps;
  int64_t width;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(const ForwardParameters<T> p) {
  __shared__ float partial[kWarps];
  const int64_t row = blockIdx.x;
  const T* x = p.x[row];
  float sum = 0.0f;
  for (int64_t h = threadIdx.x; h < p.width; h += kThreads) {
    float value = ToFloat(x[h]);
    if (!p.residual.is_null()) {
      const T rounded = FromFloat<T>(value + ToFloat(p.residual[row][h]));
      p.residual_out[row][h] = rounded;
      value = ToFloat(rounded);
    }
    sum = __fmaf_rn(value, value, sum);
  }
  sum = BlockReduce<Sum>(sum, partial);
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(p.width) + p.eps);
  if (threadIdx.x == 0) p.inverse_rms[row] = scale;
  const T* from = p.residual.is_null() ? x : p.residual_out[row];
  for (int64_t h = threadIdx.x; h < p.width; h += kThreads) {
    p.y[row][h] = FromFloat<T>(ToFloat(from[h]) * scale * ToFloat(p.w[h]));
  }
}

template <typename T>
struct BackwardInputParameters {
  Rows<const T> dy, x, dx_add;
  const T* w;
  const float* inverse_rms;
  Rows<T> dx;
  int64_t width;
};

// dx = r dy w - x r^3 dot / H (+ dx_add)
template <typename T>
__global__ void __launch_bounds__(kThreads)
    rms_norm_backward_input_kernel(const BackwardInputParameters<T> p) {
  __shared__ float partial[kWarps];
  const int64_t row = blockIdx.x;
  const T *dy = p.dy[row], *x = p.x[row];
  float dot = 0.0f;
  for (int64_t h = threadIdx.x; h < p.width; h += kThreads) {
    dot = __fmaf_rn(ToFloat(dy[h]) * ToFloat(p.w[h]), ToFloat(x[h]), dot);
  }
  dot = BlockReduce<Sum>(dot, partial);
  const float r = p.inverse_rms[row];
  const float c = -r * r * r * (dot / static_cast<float>(p.width));
  for (int64_t h = threadIdx.x; h < p.width; h += kThreads) {
    float value = __fmaf_rn(ToFloat(x[h]), c, ToFloat(dy[h]) * ToFloat(p.w[h]) * r);
    if (!p.dx_add.is_null()) value += ToFloat(p.dx_add[row][h]);
    p.dx[row][h] = FromFloat<T>(value);
  }
}

template <typename T>
struct BackwardWeightParameters {
  Rows<const T> dy, x;
  const float* inverse_rms;
  float* dw;
  int64_t rows, width;
};

constexpr int kRowsPerPart = 64;  // of the op's contract
constexpr int kParts = 32;        // summed side by side, added in order

// threadIdx.x: column; threadIdx.y: which of kParts neighbouring parts of 64 rows.
template <typename T>
__global__ void __launch_bounds__(kWarp* kParts)
    rms_norm_backward_weight_kernel(const BackwardWeightParameters<T> p) {
  __shared__ float sums[kParts][kWarp];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x;
  const bool inside = column < p.width;
  float total = inside && threadIdx.y == 0 ? p.dw[column] : 0.0f;
  for (int64_t first = 0; first < p.rows; first += kParts * kRowsPerPart) {
    const int64_t begin = first + threadIdx.y * kRowsPerPart;
    const int64_t end = begin + kRowsPerPart < p.rows ? begin + kRowsPerPart : p.rows;
    float sum = 0.0f;
#pragma unroll 8
    for (int64_t row = begin; row < (inside ? end : begin); ++row) {
      sum = __fmaf_rn(ToFloat(p.dy[row][column]), ToFloat(p.x[row][column]) * p.inverse_rms[row],
                      sum);
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0) {
      for (int part = 0; part < kParts && first + part * kRowsPerPart < p.rows; ++part) {
        total += sums[part][threadIdx.x];
      }
    }
    __syncthreads();
  }
  if (inside && threadIdx.y == 0) p.dw[column] = total;
}

}  // namespace

void RmsNorm(Stream& stream, const RmsNormArgs& args) {
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const ForwardParameters<T> p = {.x = RowsOf<T>(args.x),
                                    .residual = RowsOf<T>(args.residual),
                                    .w = static_cast<const T*>(args.w.raw_data()),
                                    .y = MutableRowsOf<T>(args.y),
                                    .residual_out = MutableRowsOf<T>(args.residual_out),
                                    .inverse_rms = args.inverse_rms.mutable_data<float>(),
                                    .eps = args.eps,
                                    .width = args.x.extent(1)};
    Launch(stream, {.blocks = args.x.extent(0), .threads = kThreads}, rms_norm_kernel<T>, p);
  });
}

void RmsNormBackwardInput(Stream& stream, const RmsNormBackwardInputArgs& args) {
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const BackwardInputParameters<T> p = {.dy = RowsOf<T>(args.dy),
                                          .x = RowsOf<T>(args.x),
                                          .dx_add = RowsOf<T>(args.dx_add),
                                          .w = static_cast<const T*>(args.w.raw_data()),
                                          .inverse_rms = args.inverse_rms.data<float>(),
                                          .dx = MutableRowsOf<T>(args.dx),
                                          .width = args.x.extent(1)};
    Launch(stream, {.blocks = args.x.extent(0), .threads = kThreads},
           rms_norm_backward_input_kernel<T>, p);
  });
}

void RmsNormBackwardWeight(Stream& stream, const RmsNormBackwardWeightArgs& args) {
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const BackwardWeightParameters<T> p = {.dy = RowsOf<T>(args.dy),
                                           .x = RowsOf<T>(args.x),
                                           .inverse_rms = args.inverse_rms.data<float>(),
                                           .dw = args.dw.mutable_data<float>(),
                                           .rows = args.x.extent(0),
                                           .width = args.x.extent(1)};
    Launch(stream, {.blocks = CeilDiv(p.width, kWarp), .threads = dim3(kWarp, kParts)},
           rms_norm_backward_weight_kernel<T>, p);
  });
}

}  // namespace sluice::kernels::cuda
