// What ranks sent, added in the order of their numbers. A thread has an element, so P rows are read
// once, each contiguously over the threads.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce_rows.h"

namespace sluice::kernels::cuda {
namespace {

constexpr int kReduceThreads = 256;

struct SumOf {
  template <typename T>
  __device__ static T Of(T a, T b) {
    return a + b;
  }
};
struct MaxOf {  // b != b: a NaN
  template <typename T>
  __device__ static T Of(T a, T b) {
    return b > a || b != b ? b : a;
  }
};
struct MinOf {
  template <typename T>
  __device__ static T Of(T a, T b) {
    return b < a || b != b ? b : a;
  }
};

template <typename T, typename Op>
__global__ void reduce_rows_kernel(const T* rows, T* y, int64_t num_rows, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  T value = rows[i];
  for (int64_t p = 1; p < num_rows; ++p) value = Op::Of(value, rows[p * n + i]);
  y[i] = value;
}

template <typename T>
void ReduceTyped(Stream& stream, const ReduceRowsArgs& args) {
  const int64_t n = args.y.num_elements();
  const LaunchShape shape = {.blocks = CeilDiv(n, kReduceThreads), .threads = kReduceThreads};
  const auto launch = [&](auto kernel) {
    Launch(stream, shape, kernel, static_cast<const T*>(args.rows.raw_data()),
           static_cast<T*>(args.y.raw_mutable_data()), args.rows.extent(0), n);
  };
  switch (args.reduction) {
    case Reduction::kSum:
      return launch(reduce_rows_kernel<T, SumOf>);
    case Reduction::kMax:
      return launch(reduce_rows_kernel<T, MaxOf>);
    case Reduction::kMin:
      return launch(reduce_rows_kernel<T, MinOf>);
  }
}

}  // namespace

void ReduceRows(Stream& stream, const ReduceRowsArgs& args) {
  switch (args.y.dtype()) {
    case DType::kF32:
      return ReduceTyped<float>(stream, args);
    case DType::kF64:
      return ReduceTyped<double>(stream, args);
    case DType::kI32:
      return ReduceTyped<int32_t>(stream, args);
    case DType::kI64:
      return ReduceTyped<int64_t>(stream, args);
    default:
      CHECK(false) << "ReduceRows of " << NameOf(args.y.dtype()).data();
  }
}

}  // namespace sluice::kernels::cuda
