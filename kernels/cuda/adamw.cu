// The optimizer's update and the sum of squares. Both give the CPU's bits: the same operations in
// the same order.
#include <cmath>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/reduce.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 256;

template <typename Moment>
struct AdamWParameters {
  float* master;
  const float* gradient;
  Moment *m, *v;
  void* value;  // null, or f32 or bf16 as the kernel's Value says
  int64_t n;
  float gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
  float correction1, correction2;  // 1 / (1 - beta^step)
  float eps, weight_decay, minus_learning_rate;
};

template <typename Moment, typename Value>
__global__ void __launch_bounds__(kThreads) adamw_kernel(const AdamWParameters<Moment> p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.n) return;
  const float g = p.gradient_scale * p.gradient[i];
  const float m = __fmaf_rn(p.beta1, ToFloat(p.m[i]), p.one_minus_beta1 * g);
  const float v = __fmaf_rn(p.beta2, ToFloat(p.v[i]), p.one_minus_beta2 * g * g);
  const float step = m * p.correction1 / (sqrtf(v * p.correction2) + p.eps);
  const float change = __fmaf_rn(p.weight_decay, p.master[i], step);
  const float master = __fmaf_rn(p.minus_learning_rate, change, p.master[i]);
  p.m[i] = FromFloat<Moment>(m);
  p.v[i] = FromFloat<Moment>(v);
  p.master[i] = master;
  if (p.value != nullptr) static_cast<Value*>(p.value)[i] = FromFloat<Value>(master);
}

template <typename Moment>
AdamWParameters<Moment> ParametersOf(const AdamWArgs& args) {
  const double b1 = static_cast<double>(args.beta1), b2 = static_cast<double>(args.beta2);
  const double step = static_cast<double>(args.step);
  return {.master = args.master.mutable_data<float>(),
          .gradient = args.gradient.data<float>(),
          .m = static_cast<Moment*>(args.m.raw_mutable_data()),
          .v = static_cast<Moment*>(args.v.raw_mutable_data()),
          .value = args.value.raw_mutable_data(),
          .n = args.master.num_elements(),
          .gradient_scale = args.gradient_scale,
          .beta1 = args.beta1,
          .one_minus_beta1 = static_cast<float>(1.0 - b1),
          .beta2 = args.beta2,
          .one_minus_beta2 = static_cast<float>(1.0 - b2),
          .correction1 = static_cast<float>(1.0 / (1.0 - std::pow(b1, step))),
          .correction2 = static_cast<float>(1.0 / (1.0 - std::pow(b2, step))),
          .eps = args.eps,
          .weight_decay = args.weight_decay,
          .minus_learning_rate = -args.learning_rate};
}

constexpr int64_t kSumBlock = 4096;  // of the op's contract

// A warp a block of 4096: lane l adds elements l, l + 32, ...; then lanes pairwise, in the order in
// which the CPU adds its vectors.
__global__ void __launch_bounds__(kWarp)
    sum_squares_kernel(const float* x, double* sums, int64_t n) {
  const int64_t first = blockIdx.x * kSumBlock;
  const int64_t last = first + kSumBlock < n ? first + kSumBlock : n;
  double sum = 0.0;
  for (int64_t i = first + threadIdx.x; i < last; i += kWarp) {
    const double value = x[i];
    sum += value * value;
  }
  for (int offset : {8, 16, 4, 2, 1}) sum += __shfl_xor_sync(kAllLanes, sum, offset);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

constexpr int64_t kGroup = 256;  // blocks whose sums are added before the others', likewise
constexpr int kGroupThreads = 512;

// One block; a thread a group.
__global__ void __launch_bounds__(kGroupThreads)
    add_in_order_kernel(const double* x, double* sum, int64_t n, bool accumulate) {
  __shared__ double groups[kGroupThreads];
  double total = accumulate && threadIdx.x == 0 ? *sum : 0.0;
  for (int64_t start = 0; start < n; start += kGroupThreads * kGroup) {
    const int64_t first = start + threadIdx.x * kGroup;
    const int64_t last = first + kGroup < n ? first + kGroup : n;
    double group = 0.0;
#pragma unroll 8
    for (int64_t i = first; i < last; ++i) group += x[i];
    groups[threadIdx.x] = group;
    __syncthreads();
    for (int i = 0; i < kGroupThreads && start + i * kGroup < n; ++i) total += groups[i];
    __syncthreads();
  }
  if (threadIdx.x == 0) *sum = total;
}

}  // namespace

void AdamW(Stream& stream, const AdamWArgs& args) {
  const LaunchShape shape = {.blocks = CeilDiv(args.master.num_elements(), kThreads),
                             .threads = kThreads};
  const DType value = args.value.is_null() ? DType::kF32 : args.value.dtype();
  ForFloatType(args.m.dtype(), [&](auto moment) {
    ForFloatType(value, [&](auto value_tag) {
      using Moment = typename decltype(moment)::Type;
      using Value = typename decltype(value_tag)::Type;
      Launch(stream, shape, adamw_kernel<Moment, Value>, ParametersOf<Moment>(args));
    });
  });
}

void SumSquares(Stream& stream, const SumSquaresArgs& args) {
  const int64_t n = args.x.num_elements(), blocks = CeilDiv(n, kSumBlock);
  double* scratch = static_cast<double*>(args.scratch.raw_mutable_data());
  Launch(stream, {.blocks = blocks, .threads = kWarp}, sum_squares_kernel, args.x.data<float>(),
         scratch, n);
  Launch(stream, {.blocks = 1, .threads = kGroupThreads}, add_in_order_kernel, scratch,
         args.sum.mutable_data<double>(), blocks, args.accumulate);
}

}  // namespace sluice::kernels::cuda
