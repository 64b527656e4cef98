// Rows between token order and expert order: a block a row.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    gather_rows_kernel(Rows<const T> x, const int32_t* index, Rows<T> y, int64_t width) {
  const int64_t row = blockIdx.x;
  const T* from = x[index[row]];
  for (int64_t h = threadIdx.x; h < width; h += kThreads) y[row][h] = from[h];
}

template <typename T>
struct CombineParameters {
  Rows<const T> rows, base;
  Rows<const int32_t> row_of;
  Rows<const float> weights;
  Rows<T> y;
  int64_t top, width;
};

// 16 bytes of neighbours, so that a thread's load fills what memory gives at once.
template <typename T>
struct alignas(16) Chunk {
  static constexpr int kElements = 16 / sizeof(T);
  T x[kElements];
};
template <typename T>
struct alignas(sizeof(T)) Single {
  static constexpr int kElements = 1;
  T x[1];
};

// A block a token; Part: how much of a row a thread takes at a time.
template <typename T, template <typename> class Part>
__global__ void __launch_bounds__(kThreads) combine_rows_kernel(const CombineParameters<T> p) {
  constexpr int kElements = Part<T>::kElements;
  const int64_t token = blockIdx.x;
  const int32_t* row_of = p.row_of[token];
  const auto at = [](const T* row, int64_t h) {
    return *reinterpret_cast<const Part<T>*>(row + h);
  };
  for (int64_t h = threadIdx.x * kElements; h < p.width; h += kThreads * kElements) {
    float sum[kElements] = {};
    if (!p.base.is_null()) {
      const Part<T> base = at(p.base[token], h);
#pragma unroll
      for (int i = 0; i < kElements; ++i) sum[i] = ToFloat(base.x[i]);
    }
#pragma unroll 4
    for (int64_t k = 0; k < p.top; ++k) {
      const Part<T> row = at(p.rows[row_of[k]], h);
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        const float x = ToFloat(row.x[i]);
        sum[i] = p.weights.is_null() ? sum[i] + x : __fmaf_rn(p.weights[token][k], x, sum[i]);
      }
    }
    Part<T> y;
#pragma unroll
    for (int i = 0; i < kElements; ++i) y.x[i] = FromFloat<T>(sum[i]);
    *reinterpret_cast<Part<T>*>(p.y[token] + h) = y;
  }
}

template <typename T>
struct CombineBackwardParameters {
  Rows<const T> dy, rows;
  Rows<const int32_t> row_of;
  Rows<const float> weights;
  Rows<T> drows;
  Rows<float> dweights;
  int64_t top, width;
};

// A block a (token, k); drows may be rows.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    combine_rows_backward_kernel(const CombineBackwardParameters<T> p) {
  __shared__ float partial[kWarps];
  const int64_t token = blockIdx.x / p.top, k = blockIdx.x % p.top;
  const int64_t row = p.row_of[token][k];
  const float weight = p.weights[token][k];
  float dot = 0.0f;
  for (int64_t h = threadIdx.x; h < p.width; h += kThreads) {
    const float dy = ToFloat(p.dy[token][h]);
    dot = __fmaf_rn(dy, ToFloat(p.rows[row][h]), dot);
    p.drows[row][h] = FromFloat<T>(weight * dy);
  }
  dot = BlockReduce<Sum>(dot, partial);
  if (threadIdx.x == 0) p.dweights[token][k] = dot;
}

}  // namespace

namespace {

// All rows begin and end at multiples of so many bytes.
bool IsCut(const ConstTensorView& view, int64_t bytes) {
  const auto element = static_cast<int64_t>(SizeOf(view.dtype()));
  return reinterpret_cast<uintptr_t>(view.raw_data()) % static_cast<uint64_t>(bytes) == 0 &&
         view.row_stride() * element % bytes == 0 && view.extent(1) * element % bytes == 0;
}

// Rows of bytes, which the wire cuts to multiples of 16: as words of 16 where all rows begin at
// one.
void GatherBytes(Stream& stream, const GatherRowsArgs& args) {
  constexpr int64_t kWord = sizeof(uint4);
  const LaunchShape shape = {.blocks = args.y.extent(0), .threads = kThreads};
  const int32_t* index = args.index.data<int32_t>();
  if (!IsCut(args.x, kWord) || !IsCut(args.y, kWord)) {
    return Launch(stream, shape, gather_rows_kernel<uint8_t>, RowsOf<uint8_t>(args.x), index,
                  MutableRowsOf<uint8_t>(args.y), args.y.extent(1));
  }
  Rows<const uint4> x = RowsOf<uint4>(args.x);
  Rows<uint4> y = MutableRowsOf<uint4>(args.y);
  x.stride /= kWord;
  y.stride /= kWord;
  Launch(stream, shape, gather_rows_kernel<uint4>, x, index, y, args.y.extent(1) / kWord);
}

}  // namespace

void GatherRows(Stream& stream, const GatherRowsArgs& args) {
  if (args.x.dtype() == DType::kU8) return GatherBytes(stream, args);
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Launch(stream, {.blocks = args.y.extent(0), .threads = kThreads}, gather_rows_kernel<T>,
           RowsOf<T>(args.x), args.index.data<int32_t>(), MutableRowsOf<T>(args.y),
           args.y.extent(1));
  });
}

void CombineRows(Stream& stream, const CombineRowsArgs& args) {
  ForFloatType(args.y.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const CombineParameters<T> p = {.rows = RowsOf<T>(args.rows),
                                    .base = RowsOf<T>(args.base),
                                    .row_of = RowsOf<int32_t>(args.row_of),
                                    .weights = RowsOf<float>(args.weights),
                                    .y = MutableRowsOf<T>(args.y),
                                    .top = args.row_of.extent(1),
                                    .width = args.y.extent(1)};
    const LaunchShape shape = {.blocks = args.y.extent(0), .threads = kThreads};
    if (IsCut(args.rows, 16) && IsCut(args.y, 16) &&
        (args.base.is_null() || IsCut(args.base, 16))) {
      Launch(stream, shape, combine_rows_kernel<T, Chunk>, p);
    } else {
      Launch(stream, shape, combine_rows_kernel<T, Single>, p);
    }
  });
}

void CombineRowsBackward(Stream& stream, const CombineRowsBackwardArgs& args) {
  ForFloatType(args.dy.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const CombineBackwardParameters<T> p = {.dy = RowsOf<T>(args.dy),
                                            .rows = RowsOf<T>(args.rows),
                                            .row_of = RowsOf<int32_t>(args.row_of),
                                            .weights = RowsOf<float>(args.weights),
                                            .drows = MutableRowsOf<T>(args.drows),
                                            .dweights = MutableRowsOf<float>(args.dweights),
                                            .top = args.row_of.extent(1),
                                            .width = args.dy.extent(1)};
    Launch(stream, {.blocks = args.row_of.num_elements(), .threads = kThreads},
           combine_rows_backward_kernel<T>, p);
  });
}

}  // namespace sluice::kernels::cuda
