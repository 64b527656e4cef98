// Rotation, and the other ops on heads: a block a token.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 128;

template <typename T>
struct RopeParameters {
  Rows<const T> x;
  Rows<T> y;  // may be x: a thread reads its pair before it writes it
  Rows<const float> cos, sin;
  const int32_t* positions;
  int64_t num_heads, head_stride, y_head_stride, half;
  bool is_interleaved;
  float sign;  // of the sine
};

template <typename T>
__global__ void __launch_bounds__(kThreads) rope_kernel(const RopeParameters<T> p) {
  const int64_t token = blockIdx.x;
  const int64_t position = p.positions[token];
  for (int64_t i = threadIdx.x; i < p.num_heads * p.half; i += kThreads) {
    const int64_t head = i / p.half, pair = i % p.half;
    const int64_t first = p.is_interleaved ? 2 * pair : pair;
    const int64_t second = p.is_interleaved ? first + 1 : pair + p.half;
    const T* x = p.x[token] + head * p.head_stride;
    T* y = p.y[token] + head * p.y_head_stride;
    const float c = p.cos[position][pair], s = p.sign * p.sin[position][pair];
    const float x0 = ToFloat(x[first]), x1 = ToFloat(x[second]);
    y[first] = FromFloat<T>(__fmaf_rn(x0, c, x1 * -s));
    y[second] = FromFloat<T>(__fmaf_rn(x1, c, x0 * s));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    sum_heads_kernel(Rows<const T> x, Rows<T> y, int64_t num_heads, int64_t head_stride,
                     int64_t width) {
  const int64_t token = blockIdx.x;
  for (int64_t d = threadIdx.x; d < width; d += kThreads) {
    float sum = 0.0f;
    for (int64_t a = 0; a < num_heads; ++a) sum += ToFloat(x[token][a * head_stride + d]);
    y[token][d] = FromFloat<T>(sum);
  }
}

// x_head_stride 0 copies one head into all.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    copy_heads_kernel(Rows<const T> x, Rows<T> y, int64_t num_heads, int64_t x_head_stride,
                      int64_t y_head_stride, int64_t width) {
  const int64_t token = blockIdx.x;
  for (int64_t i = threadIdx.x; i < num_heads * width; i += kThreads) {
    const int64_t head = i / width, d = i % width;
    y[token][head * y_head_stride + d] = x[token][head * x_head_stride + d];
  }
}

}  // namespace

void Rope(Stream& stream, const RopeArgs& args) {
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const RopeParameters<T> p = {.x = RowsOf<T>(args.x),
                                 .y = MutableRowsOf<T>(args.y),
                                 .cos = RowsOf<float>(args.cos),
                                 .sin = RowsOf<float>(args.sin),
                                 .positions = args.positions.data<int32_t>(),
                                 .num_heads = args.num_heads,
                                 .head_stride = args.head_stride,
                                 .y_head_stride = args.y_head_stride,
                                 .half = args.cos.extent(1),
                                 .is_interleaved = args.layout == RopeLayout::kInterleaved,
                                 .sign = args.inverse ? -1.0f : 1.0f};
    Launch(stream, {.blocks = args.positions.extent(0), .threads = kThreads}, rope_kernel<T>, p);
  });
}

void SumHeads(Stream& stream, const SumHeadsArgs& args) {
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Launch(stream, {.blocks = args.y.extent(0), .threads = kThreads}, sum_heads_kernel<T>,
           RowsOf<T>(args.x), MutableRowsOf<T>(args.y), args.num_heads, args.head_stride,
           args.y.extent(1));
  });
}

void BroadcastHeads(Stream& stream, const BroadcastHeadsArgs& args) {
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Launch(stream, {.blocks = args.x.extent(0), .threads = kThreads}, copy_heads_kernel<T>,
           RowsOf<T>(args.x), MutableRowsOf<T>(args.y), args.num_heads, int64_t{0},
           args.head_stride, args.x.extent(1));
  });
}

void CopyHeads(Stream& stream, const CopyHeadsArgs& args) {
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Launch(stream, {.blocks = args.x.extent(0), .threads = kThreads}, copy_heads_kernel<T>,
           RowsOf<T>(args.x), MutableRowsOf<T>(args.y), args.num_heads, args.head_stride,
           args.y_head_stride, args.x.extent(1));
  });
}

}  // namespace sluice::kernels::cuda
