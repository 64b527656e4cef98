// Causal attention with FP32 arithmetic: a warp a query (forward and dq) or a key (dk and dv), 32
// keys or queries at a time. Plain on purpose: it takes FP32 tensors, and is what the kernels with
// tensor instructions are compared with.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/libraries.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kWarps = 4;  // of a block
constexpr int kPerLane = kMostHeadWidth / kWarp;

// The sequence of token t: the last that starts at or before it and is not empty.
__device__ inline int64_t SequenceOf(const int32_t* starts, int64_t sequences, int64_t t) {
  int64_t low = 0, high = sequences;  // starts[low] <= t < starts[high]
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (starts[middle] <= t ? low : high) = middle;
  }
  return low;
}

// A head's row in shared memory, as floats, for all lanes of the warp.
template <typename T>
__device__ void Stage(float* to, const T* from, int64_t width) {
  for (int64_t i = threadIdx.x % kWarp; i < width; i += kWarp) to[i] = ToFloat(from[i]);
  __syncwarp();
}

template <typename T>
__device__ float Dot(const float* staged, const T* x, int64_t width) {
  float sum = 0.0f;
  for (int64_t i = 0; i < width; ++i) sum = __fmaf_rn(staged[i], ToFloat(x[i]), sum);
  return sum;
}

// sums[i] += sum over the 32 lanes' weights of weight * row(lane)[lane' + 32 i]: every lane its
// columns, rows in ascending order. Rows at and after `count` are not touched.
template <typename Row>
__device__ void AddWeighted(float (&sums)[kPerLane], float weight, int count, int64_t width,
                            const Row& row) {
  for (int j = 0; j < count; ++j) {
    const float w = __shfl_sync(kAllLanes, weight, j);
    const auto* x = row(j);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int64_t column = threadIdx.x % kWarp + i * kWarp;
      if (column < width) sums[i] = __fmaf_rn(w, ToFloat(x[column]), sums[i]);
    }
  }
}

template <typename T>
__device__ void StoreRow(T* to, const float (&sums)[kPerLane], float factor, int64_t width) {
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int64_t column = threadIdx.x % kWarp + i * kWarp;
    if (column < width) to[column] = FromFloat<T>(sums[i] * factor);
  }
}

template <typename T>
__global__ void __launch_bounds__(kWarps* kWarp) attention_kernel(const AttentionParameters<T> p) {
  __shared__ float staged[kWarps][kMostHeadWidth];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + warp, head = blockIdx.y;
  if (t >= p.tokens) return;
  const int64_t key_head = head / p.queries_per_key;
  const int64_t begin = p.starts[SequenceOf(p.starts, p.sequences, t)];
  Stage(staged[warp], p.q.At(t, head), p.q.width);
  float most = -__builtin_huge_valf(), sum = 0.0f, out[kPerLane] = {};
  for (int64_t first = begin; first <= t; first += kWarp) {
    const int64_t left = t + 1 - first;
    const int count = static_cast<int>(left < kWarp ? left : kWarp);
    float score = -__builtin_huge_valf();
    if (lane < count) {
      score = p.scale * Dot(staged[warp], p.k.At(first + lane, key_head), p.k.width);
    }
    const float new_most = fmaxf(most, WarpReduce<Max>(score));
    const float keep = expf(most - new_most);
    const float weight = lane < count ? expf(score - new_most) : 0.0f;
    sum = sum * keep + WarpReduce<Sum>(weight);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) out[i] *= keep;
    AddWeighted(out, weight, count, p.v.width, [&](int j) { return p.v.At(first + j, key_head); });
    most = new_most;
  }
  StoreRow(p.o.At(t, head), out, 1.0f / sum, p.v.width);
  if (lane == 0) p.log_sum_exp[t][head] = most + logf(sum);
}

template <typename T>
__device__ float DotOfRows(const T* a, const T* b, int64_t width) {
  float sum = 0.0f;
  for (int64_t i = 0; i < width; ++i) sum = __fmaf_rn(ToFloat(a[i]), ToFloat(b[i]), sum);
  return sum;
}

// dq = scale sum over keys of p (dout . v - dout . o) k, with p = e^(score - log_sum_exp).
template <typename T>
__global__ void __launch_bounds__(kWarps* kWarp)
    attention_backward_query_kernel(const AttentionBackwardParameters<T> p) {
  __shared__ float staged[kWarps][2][kMostHeadWidth];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + warp, head = blockIdx.y;
  if (t >= p.tokens) return;
  const int64_t key_head = head / p.queries_per_key;
  const int64_t begin = p.starts[SequenceOf(p.starts, p.sequences, t)];
  float *q = staged[warp][0], *dout = staged[warp][1];
  Stage(q, p.q.At(t, head), p.q.width);
  Stage(dout, p.dout.At(t, head), p.v.width);
  const float log_sum_exp = p.log_sum_exp[t][head];
  const float delta = Dot(dout, p.o.At(t, head), p.v.width);
  float dq[kPerLane] = {};
  for (int64_t first = begin; first <= t; first += kWarp) {
    const int64_t left = t + 1 - first;
    const int count = static_cast<int>(left < kWarp ? left : kWarp);
    float ds = 0.0f;
    if (lane < count) {
      const float score = p.scale * Dot(q, p.k.At(first + lane, key_head), p.k.width);
      const float dp = Dot(dout, p.v.At(first + lane, key_head), p.v.width);
      ds = expf(score - log_sum_exp) * (dp - delta);
    }
    AddWeighted(dq, ds, count, p.k.width, [&](int j) { return p.k.At(first + j, key_head); });
  }
  StoreRow(p.dq.At(t, head), dq, p.scale, p.q.width);
}

// dv = sum over queries of p dout; dk = scale sum over queries of p (dout . v - dout . o) q; the
// query heads of the group in ascending order, then queries in ascending order.
template <typename T>
__global__ void __launch_bounds__(kWarps* kWarp)
    attention_backward_key_kernel(const AttentionBackwardParameters<T> p) {
  __shared__ float staged[kWarps][2][kMostHeadWidth];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t key = static_cast<int64_t>(blockIdx.x) * kWarps + warp, key_head = blockIdx.y;
  if (key >= p.tokens) return;
  const int64_t end = p.starts[SequenceOf(p.starts, p.sequences, key) + 1];
  float *k = staged[warp][0], *v = staged[warp][1];
  Stage(k, p.k.At(key, key_head), p.k.width);
  Stage(v, p.v.At(key, key_head), p.v.width);
  float dk[kPerLane] = {}, dv[kPerLane] = {};
  for (int64_t in_group = 0; in_group < p.queries_per_key; ++in_group) {
    const int64_t head = key_head * p.queries_per_key + in_group;
    for (int64_t first = key; first < end; first += kWarp) {
      const int count = static_cast<int>(end - first < kWarp ? end - first : kWarp);
      const int64_t t = first + lane;
      float weight = 0.0f, ds = 0.0f;
      if (lane < count) {
        const T* dout = p.dout.At(t, head);
        const float score = p.scale * Dot(k, p.q.At(t, head), p.k.width);
        const float delta = DotOfRows(dout, p.o.At(t, head), p.v.width);
        weight = expf(score - p.log_sum_exp[t][head]);
        ds = weight * (Dot(v, dout, p.v.width) - delta);
      }
      AddWeighted(dk, ds, count, p.k.width, [&](int j) { return p.q.At(first + j, head); });
      AddWeighted(dv, weight, count, p.v.width, [&](int j) { return p.dout.At(first + j, head); });
    }
  }
  StoreRow(p.dk.At(key, key_head), dk, p.scale, p.k.width);
  StoreRow(p.dv.At(key, key_head), dv, 1.0f, p.v.width);
}

LaunchShape ShapeOf(int64_t tokens, int64_t heads) {
  return {.blocks = CeilDiv(tokens, kWarps),
          .threads = kWarps * kWarp,
          .shared_bytes = 0,
          .blocks_y = heads};
}

void CheckWidths(const ConstTensorView& q, const ConstTensorView& v) {
  CHECK(q.extent(2) <= kMostHeadWidth && v.extent(2) <= kMostHeadWidth)
      << "heads of " << q.extent(2) << " and " << v.extent(2) << ", wanted at most "
      << kMostHeadWidth;
}

}  // namespace

void Attention(Stream& stream, const AttentionArgs& args) {
  CheckWidths(args.q, args.v);
  CudaStream& cuda = CudaStream::From(stream);
  AttentionLibrary* library = cuda.options().attention;
  if (library != nullptr && library->Takes(args)) {
    cuda.Note(library->Attend(args, cuda));
    return;
  }
  if (args.q.dtype() == DType::kBF16) return AttentionByTensorCores(stream, args);
  const auto p = ParametersOf<float>(args);
  Launch(stream, ShapeOf(p.tokens, args.q.extent(1)), attention_kernel<float>, p);
}

void AttentionBackward(Stream& stream, const AttentionBackwardArgs& args) {
  CheckWidths(args.q, args.v);
  if (args.q.dtype() == DType::kBF16) return AttentionBackwardByTensorCores(stream, args);
  const auto p = ParametersOf<float>(args);
  Launch(stream, ShapeOf(p.tokens, args.q.extent(1)), attention_backward_query_kernel<float>, p);
  Launch(stream, ShapeOf(p.tokens, args.k.extent(1)), attention_backward_key_kernel<float>, p);
}

}  // namespace sluice::kernels::cuda
