// A block a row of logits.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

template <typename T>
struct CrossEntropyParameters {
  Rows<const float> logits;
  const int32_t* targets;
  float* loss;
  Rows<T> dlogits;  // may be the logits
  float scale;
  int64_t vocabulary;
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_kernel(const CrossEntropyParameters<T> p) {
  __shared__ float partial[kWarps];
  const int64_t row = blockIdx.x;
  const float* x = p.logits[row];
  const int64_t target = p.targets[row];
  if (target < 0) {
    if (threadIdx.x == 0) p.loss[row] = 0.0f;
    for (int64_t v = threadIdx.x; !p.dlogits.is_null() && v < p.vocabulary; v += kThreads) {
      p.dlogits[row][v] = FromFloat<T>(0.0f);
    }
    return;
  }
  float most = -__builtin_huge_valf(), sum = 0.0f;
  for (int64_t v = threadIdx.x; v < p.vocabulary; v += kThreads) most = fmaxf(most, x[v]);
  most = BlockReduce<Max>(most, partial);
  for (int64_t v = threadIdx.x; v < p.vocabulary; v += kThreads) sum += expf(x[v] - most);
  sum = BlockReduce<Sum>(sum, partial);
  const double at_target = x[target];
  // In this order nothing cancels when the target is by far the likeliest.
  if (threadIdx.x == 0) {
    p.loss[row] =
        static_cast<float>(log(static_cast<double>(sum)) + (static_cast<double>(most) - at_target));
  }
  if (p.dlogits.is_null()) return;
  // 1 - p in double: near p = 1 a float would lose it.
  const double share = exp(at_target - most) / static_cast<double>(sum);
  __syncthreads();  // all have read x[target], which may be written below
  const float factor = p.scale / sum;
  for (int64_t v = threadIdx.x; v < p.vocabulary; v += kThreads) {
    const float d = v == target ? static_cast<float>(static_cast<double>(p.scale) * (share - 1.0))
                                : factor * expf(x[v] - most);
    p.dlogits[row][v] = FromFloat<T>(d);
  }
}

}  // namespace

void CrossEntropy(Stream& stream, const CrossEntropyArgs& args) {
  const DType dtype = args.dlogits.is_null() ? DType::kF32 : args.dlogits.dtype();
  ForFloatType(dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const CrossEntropyParameters<T> p = {.logits = RowsOf<float>(args.logits),
                                         .targets = args.targets.data<int32_t>(),
                                         .loss = args.loss.mutable_data<float>(),
                                         .dlogits = MutableRowsOf<T>(args.dlogits),
                                         .scale = args.scale,
                                         .vocabulary = args.logits.extent(1)};
    Launch(stream, {.blocks = args.logits.extent(0), .threads = kThreads}, cross_entropy_kernel<T>,
           p);
  });
}

}  // namespace sluice::kernels::cuda
