// A block a row; the row's sums do not depend on how many rows there are, nor on how they lie.
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/row_walk.cuh"

namespace sluice::kernels::cuda {
namespace {

template <typename Walk, typename T = typename Walk::T>
struct ForwardParameters {
  Rows<const T> x, residual;
  const T* w;
  Rows<T> y, residual_out;
  float* inverse_rms;
  float eps;
  Walk walk;
};

template <typename Walk>
__global__ void __launch_bounds__(Walk::kThreads) rms_norm_kernel(const ForwardParameters<Walk> p) {
  using T = typename Walk::T;
  constexpr int kElements = Walk::kElements, kHeld = Walk::kHeld;
  __shared__ float partial[Walk::kWarps];
  const int64_t row = blockIdx.x;
  __shared__ typename Walk::Shared shared;
  Chunk<T> held[kHeld];
  float sum = 0.0f;
  p.walk.ForEach([&](int64_t first) {
    p.walk.Load(p.x[row], first, held);
    if (!p.residual.is_null()) {
      Chunk<T> more[kHeld];
      p.walk.Load(p.residual[row], first, more);
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        float value[kElements];
#pragma unroll
        for (int j = 0; j < kElements; ++j) {
          value[j] = held[i][j] + more[i][j];
        }
        held[i] = FromFloats<T>(value);
        p.walk.StoreAt(p.residual_out[row], first, i, held[i]);
      }
    }
    Walk::Share(held, shared);
    p.walk.ForSum(first, [&](int h) {
      const float value = Walk::SharedAt(shared, h);
      sum = __fmaf_rn(value, value, sum);
    });
  });
  sum = BlockReduce<Sum>(sum, partial);
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(p.walk.width) + p.eps);
  if (threadIdx.x == 0) p.inverse_rms[row] = scale;
  const T* from = p.residual.is_null() ? p.x[row] : p.residual_out[row];
  p.walk.ForEach([&](int64_t first) {
    if (!p.walk.IsHeld()) p.walk.Load(from, first, held);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      float y[kElements], w[kElements];
      p.walk.LoadAt(p.w, first, i, w);
#pragma unroll
      for (int j = 0; j < kElements; ++j) y[j] = held[i][j] * scale * w[j];
      p.walk.StoreAt(p.y[row], first, i, FromFloats<T>(y));
    }
  });
}

template <typename Walk, typename T = typename Walk::T>
struct BackwardInputParameters {
  Rows<const T> dy, x, dx_add;
  const T* w;
  const float* inverse_rms;
  Rows<T> dx;
  Walk walk;
};

// dx = r dy w - x r^3 dot / H (+ dx_add)
template <typename Walk>
__global__ void __launch_bounds__(Walk::kThreads)
    rms_norm_backward_input_kernel(const BackwardInputParameters<Walk> p) {
  using T = typename Walk::T;
  constexpr int kElements = Walk::kElements, kHeld = Walk::kHeld;
  __shared__ float partial[Walk::kWarps];
  const int64_t row = blockIdx.x;
  __shared__ typename Walk::Shared shared_dy, shared_x;
  Chunk<T> dy[kHeld], x[kHeld];
  float dot = 0.0f;
  p.walk.ForEach([&](int64_t first) {
    p.walk.Load(p.dy[row], first, dy);
    p.walk.Load(p.x[row], first, x);
    Walk::Share(dy, shared_dy);
    Walk::Share(x, shared_x);
    p.walk.ForSum(first, [&](int h) {
      dot = __fmaf_rn(Walk::SharedAt(shared_dy, h) * ToFloat(p.w[first + h]),
                      Walk::SharedAt(shared_x, h), dot);
    });
  });
  dot = BlockReduce<Sum>(dot, partial);
  const float r = p.inverse_rms[row];
  const float c = -r * r * r * (dot / static_cast<float>(p.walk.width));
  p.walk.ForEach([&](int64_t first) {
    if (!p.walk.IsHeld()) p.walk.Load(p.dy[row], first, dy), p.walk.Load(p.x[row], first, x);
    Chunk<T> add[kHeld];
    if (!p.dx_add.is_null()) p.walk.Load(p.dx_add[row], first, add);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      float w[kElements], dx[kElements];
      p.walk.LoadAt(p.w, first, i, w);
#pragma unroll
      for (int j = 0; j < kElements; ++j) {
        dx[j] = __fmaf_rn(x[i][j], c, dy[i][j] * w[j] * r);
        if (!p.dx_add.is_null()) dx[j] += add[i][j];
      }
      p.walk.StoreAt(p.dx[row], first, i, FromFloats<T>(dx));
    }
  });
}

template <typename T>
struct BackwardWeightParameters {
  Rows<const T> dy, x;
  const float* inverse_rms;
  float* dw;
  int64_t rows, width;
  bool is_cut;
};

constexpr int kRowsPerPart = 64;  // of the op's contract
constexpr int kParts = 64;        // summed side by side, added in order
constexpr int kLanes = 8;         // chunks of a block's columns
constexpr int kRowsAtOnce = 8;    // loaded by a thread

// Adds rows [begin, end) of a chunk of columns, of which `left` exist.
template <typename T>
__device__ void AddRows(const BackwardWeightParameters<T>& p, int64_t begin, int64_t end,
                        int64_t column, float (&sum)[Chunk<T>::kElements]) {
  for (int64_t row = begin; row < end; row += kRowsAtOnce) {
    Chunk<T> dy[kRowsAtOnce], x[kRowsAtOnce];
    float r[kRowsAtOnce];
    const auto left = [&](int i) { return row + i < end ? p.width - column : 0; };
    LoadChunks(dy, p.is_cut, [&](int i) { return Part<const T>{p.dy[row + i] + column, left(i)}; });
    LoadChunks(x, p.is_cut, [&](int i) { return Part<const T>{p.x[row + i] + column, left(i)}; });
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) r[i] = row + i < end ? p.inverse_rms[row + i] : 0.0f;
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      if (row + i >= end) break;
#pragma unroll
      for (int j = 0; j < Chunk<T>::kElements; ++j) {
        sum[j] = __fmaf_rn(dy[i][j], x[i][j] * r[i], sum[j]);
      }
    }
  }
}

// threadIdx.x: chunk of columns; threadIdx.y: which of kParts neighbouring parts of 64 rows.
template <typename T>
__global__ void __launch_bounds__(kLanes* kParts)
    rms_norm_backward_weight_kernel(const BackwardWeightParameters<T> p) {
  constexpr int kElements = Chunk<T>::kElements, kColumns = kLanes * kElements;
  __shared__ float sums[2][kParts][kColumns];
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kColumns;
  const int mine = static_cast<int>(threadIdx.y * kLanes + threadIdx.x);  // added up by this thread
  const bool adds = mine < kColumns && first_column + mine < p.width;
  float total = adds ? p.dw[first_column + mine] : 0.0f;
  int turn = 0;  // while one half of `sums` is added up, the other takes the next
  for (int64_t first = 0; first < p.rows; first += kParts * kRowsPerPart, turn ^= 1) {
    const int64_t begin = first + threadIdx.y * kRowsPerPart;
    const int64_t end = begin + kRowsPerPart < p.rows ? begin + kRowsPerPart : p.rows;
    float sum[kElements] = {};
    AddRows(p, begin, end, first_column + threadIdx.x * kElements, sum);
#pragma unroll
    for (int j = 0; j < kElements; ++j) {
      sums[turn][threadIdx.y][threadIdx.x * kElements + j] = sum[j];
    }
    __syncthreads();
    for (int part = 0; adds && part < kParts && first + part * kRowsPerPart < p.rows; ++part) {
      total += sums[turn][part][mine];
    }
  }
  if (adds) p.dw[first_column + mine] = total;
}

}  // namespace

void RmsNorm(Stream& stream, const RmsNormArgs& args) {
  const bool is_cut = IsCut({args.x, args.w, args.y, args.residual, args.residual_out});
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    ForWalk<T>(args.x.extent(1), is_cut, [&](auto walk) {
      using Walk = decltype(walk);
      const ForwardParameters<Walk> p = {.x = RowsOf<T>(args.x),
                                         .residual = RowsOf<T>(args.residual),
                                         .w = static_cast<const T*>(args.w.raw_data()),
                                         .y = MutableRowsOf<T>(args.y),
                                         .residual_out = MutableRowsOf<T>(args.residual_out),
                                         .inverse_rms = args.inverse_rms.mutable_data<float>(),
                                         .eps = args.eps,
                                         .walk = walk};
      Launch(stream, {.blocks = args.x.extent(0), .threads = Walk::kThreads}, rms_norm_kernel<Walk>,
             p);
    });
  });
}

void RmsNormBackwardInput(Stream& stream, const RmsNormBackwardInputArgs& args) {
  const bool is_cut = IsCut({args.dy, args.x, args.w, args.dx, args.dx_add});
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    ForWalk<T>(args.x.extent(1), is_cut, [&](auto walk) {
      using Walk = decltype(walk);
      const BackwardInputParameters<Walk> p = {.dy = RowsOf<T>(args.dy),
                                               .x = RowsOf<T>(args.x),
                                               .dx_add = RowsOf<T>(args.dx_add),
                                               .w = static_cast<const T*>(args.w.raw_data()),
                                               .inverse_rms = args.inverse_rms.data<float>(),
                                               .dx = MutableRowsOf<T>(args.dx),
                                               .walk = walk};
      Launch(stream, {.blocks = args.x.extent(0), .threads = Walk::kThreads},
             rms_norm_backward_input_kernel<Walk>, p);
    });
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
                                           .width = args.x.extent(1),
                                           .is_cut = IsCut({args.dy, args.x})};
    Launch(
        stream,
        {.blocks = CeilDiv(p.width, kLanes * Chunk<T>::kElements), .threads = dim3(kLanes, kParts)},
        rms_norm_backward_weight_kernel<T>, p);
  });
}

}  // namespace sluice::kernels::cuda
