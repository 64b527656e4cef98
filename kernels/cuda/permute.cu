// Rows between token order and expert order: a block a row.
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/row_walk.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kAtOnce = 4;  // loads of a thread before it waits

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
  bool is_cut;
};

// A block a token.
template <typename T>
__global__ void __launch_bounds__(kThreads) combine_rows_kernel(const CombineParameters<T> p) {
  constexpr int kElements = Chunk<T>::kElements;
  const int64_t token = blockIdx.x;
  for (int64_t h = threadIdx.x * kElements; h < p.width; h += kThreads * kElements) {
    float sum[kElements] = {};
    if (!p.base.is_null()) ToFloats(LoadChunk(p.base[token] + h, p.width - h, p.is_cut), sum);
    for (int64_t first = 0; first < p.top; first += kAtOnce) {
      Chunk<T> rows[kAtOnce];
      LoadChunks(rows, p.is_cut, [&](int i) {
        const bool is_there = first + i < p.top;
        return Part<const T>{p.rows[is_there ? p.row_of[token][first + i] : 0] + h,
                             is_there ? p.width - h : 0};
      });
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (first + i >= p.top) break;
        const float weight = p.weights.is_null() ? 1.0f : p.weights[token][first + i];
#pragma unroll
        for (int j = 0; j < kElements; ++j) sum[j] = __fmaf_rn(weight, rows[i][j], sum[j]);
      }
    }
    StoreChunk(FromFloats<T>(sum), p.y[token] + h, p.width - h, p.is_cut);
  }
}

template <typename Walk, typename T = typename Walk::T>
struct CombineBackwardParameters {
  Rows<const T> dy, rows;
  Rows<const int32_t> row_of;
  Rows<const float> weights;
  Rows<T> drows;
  Rows<float> dweights;
  int64_t top;
  Walk walk;
};

// A block a (token, k); drows may be rows.
template <typename Walk>
__global__ void __launch_bounds__(Walk::kThreads)
    combine_rows_backward_kernel(const CombineBackwardParameters<Walk> p) {
  using T = typename Walk::T;
  constexpr int kElements = Walk::kElements, kHeld = Walk::kHeld;
  __shared__ float partial[Walk::kWarps];
  __shared__ typename Walk::Shared shared_dy, shared_row;
  const int64_t token = blockIdx.x / p.top, k = blockIdx.x % p.top;
  const int64_t row = p.row_of[token][k];
  const float weight = p.weights[token][k];
  float dot = 0.0f;
  p.walk.ForEach([&](int64_t first) {
    Chunk<T> dy[kHeld], x[kHeld];
    p.walk.Load(p.dy[token], first, dy);
    p.walk.Load(p.rows[row], first, x);
    Walk::Share(dy, shared_dy);
    Walk::Share(x, shared_row);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      float drow[kElements];
#pragma unroll
      for (int j = 0; j < kElements; ++j) drow[j] = weight * dy[i][j];
      p.walk.StoreAt(p.drows[row], first, i, FromFloats<T>(drow));
    }
    p.walk.ForSum(first, [&](int h) {
      dot = __fmaf_rn(Walk::SharedAt(shared_dy, h), Walk::SharedAt(shared_row, h), dot);
    });
  });
  dot = BlockReduce<Sum>(dot, partial);
  if (threadIdx.x == 0) p.dweights[token][k] = dot;
}

// Rows as elements of T, which may be several of the tensor's.
template <typename T>
void Gather(Stream& stream, const GatherRowsArgs& args) {
  const int64_t step = static_cast<int64_t>(sizeof(T) / SizeOf(args.x.dtype()));
  const Rows<const T> x = {static_cast<const T*>(args.x.raw_data()), args.x.row_stride() / step};
  const Rows<T> y = {static_cast<T*>(args.y.raw_mutable_data()), args.y.row_stride() / step};
  Launch(stream, {.blocks = args.y.extent(0), .threads = kThreads}, gather_rows_kernel<T>, x,
         args.index.data<int32_t>(), y, args.y.extent(1) / step);
}

}  // namespace

void GatherRows(Stream& stream, const GatherRowsArgs& args) {
  if (IsCut({args.x, args.y})) return Gather<uint4>(stream, args);
  if (args.x.dtype() == DType::kU8) return Gather<uint8_t>(stream, args);
  ForFloatType(args.x.dtype(),
               [&](auto tag) { Gather<typename decltype(tag)::Type>(stream, args); });
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
                                    .width = args.y.extent(1),
                                    .is_cut = IsCut({args.rows, args.y, args.base})};
    Launch(stream, {.blocks = args.y.extent(0), .threads = kThreads}, combine_rows_kernel<T>, p);
  });
}

void CombineRowsBackward(Stream& stream, const CombineRowsBackwardArgs& args) {
  const bool is_cut = IsCut({args.dy, args.rows, args.drows});
  ForFloatType(args.dy.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    ForWalk<T>(args.dy.extent(1), is_cut, [&](auto walk) {
      using Walk = decltype(walk);
      const CombineBackwardParameters<Walk> p = {.dy = RowsOf<T>(args.dy),
                                                 .rows = RowsOf<T>(args.rows),
                                                 .row_of = RowsOf<int32_t>(args.row_of),
                                                 .weights = RowsOf<float>(args.weights),
                                                 .drows = MutableRowsOf<T>(args.drows),
                                                 .dweights = MutableRowsOf<float>(args.dweights),
                                                 .top = args.row_of.extent(1),
                                                 .walk = walk};
      Launch(stream, {.blocks = args.row_of.num_elements(), .threads = Walk::kThreads},
             combine_rows_backward_kernel<Walk>, p);
    });
  });
}

}  // namespace sluice::kernels::cuda
