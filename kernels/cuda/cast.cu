// Element-wise ops. Contiguous tensors are one long row.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// Element blockIdx.x * blockDim.x + threadIdx.x of row blockIdx.y, blockIdx.y + gridDim.y, ...
__device__ inline int64_t ColumnOfThread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

template <typename From, typename To>
__global__ void cast_kernel(Rows<const From> from, Rows<To> to, int64_t rows, int64_t width) {
  const int64_t column = ColumnOfThread();
  if (column >= width) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    to[row][column] = FromFloat<To>(ToFloat(from[row][column]));
  }
}

template <typename T>
__global__ void fill_kernel(T* to, T value, int64_t n) {
  const int64_t i = ColumnOfThread();
  if (i < n) to[i] = value;
}

template <typename T>
__global__ void add_kernel(const T* a, const T* b, T* y, int64_t n) {
  const int64_t i = ColumnOfThread();
  if (i < n) y[i] = FromFloat<T>(ToFloat(a[i]) + ToFloat(b[i]));
}

LaunchShape Flat(int64_t n) { return {.blocks = CeilDiv(n, kThreads), .threads = kThreads}; }

template <typename T>
void FillWith(Stream& stream, const TensorView& to, T value) {
  const int64_t n = to.num_elements();
  Launch(stream, Flat(n), fill_kernel<T>, static_cast<T*>(to.raw_mutable_data()), value, n);
}

}  // namespace

void Cast(Stream& stream, const CastArgs& args) {
  const bool flat = args.from.is_contiguous() && args.to.is_contiguous();
  const int64_t rows = flat ? 1 : args.to.extent(0);
  const int64_t width = flat ? args.to.num_elements() : args.to.shape().elements_per_row();
  LaunchShape shape = Flat(width);
  constexpr int64_t kMostRows = 0xffff;
  shape.blocks_y = rows < kMostRows ? rows : kMostRows;
  ForFloatType(args.from.dtype(), [&](auto from) {
    ForFloatType(args.to.dtype(), [&](auto to) {
      using From = typename decltype(from)::Type;
      using To = typename decltype(to)::Type;
      Launch(stream, shape, cast_kernel<From, To>, RowsOf<From>(args.from),
             MutableRowsOf<To>(args.to), rows, width);
    });
  });
}

void Fill(Stream& stream, const TensorView& to, double value) {
  switch (to.dtype()) {
    case DType::kF32:
      return FillWith(stream, to, static_cast<float>(value));
    case DType::kBF16:
      return FillWith(stream, to, ToBFloat16(static_cast<float>(value)).bits);
    case DType::kI32:
      return FillWith(stream, to, static_cast<int32_t>(value));
    case DType::kI64:
      return FillWith(stream, to, static_cast<int64_t>(value));
    case DType::kU8:
      return FillWith(stream, to, static_cast<uint8_t>(value));
    default:
      CHECK(false) << "Fill of " << NameOf(to.dtype()).data();
  }
}

void Add(Stream& stream, const AddArgs& args) {
  const int64_t n = args.y.num_elements();
  ForFloatType(args.y.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Launch(stream, Flat(n), add_kernel<T>, static_cast<const T*>(args.a.raw_data()),
           static_cast<const T*>(args.b.raw_data()), static_cast<T*>(args.y.raw_mutable_data()), n);
  });
}

}  // namespace sluice::kernels::cuda
