// The right operand of a product with K innermost, as the products read it fastest.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSide = 64;          // of a tile that is turned
constexpr int kPairs = kSide / 2;  // of a row of it; a lane has one
constexpr int kRowsAtOnce = kThreads / kPairs;
static_assert(kPairs == kWarp);

template <typename T>
struct alignas(2 * sizeof(T)) Pair {
  T first, second;
};

template <typename From, typename To>
struct PackParameters {
  const From* from;
  To* to;                             // [matrices, n, k]
  int64_t matrix_stride, row_stride;  // of `from`
  int64_t n, k;
};

// to[e][j][i] = from[e][j][i]
template <typename From, typename To>
__global__ void __launch_bounds__(kThreads) pack_as_it_is_kernel(const PackParameters<From, To> p) {
  const int64_t matrix = blockIdx.y;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.n * p.k) return;
  const From x = p.from[matrix * p.matrix_stride + i / p.k * p.row_stride + i % p.k];
  p.to[matrix * p.n * p.k + i] = FromFloat<To>(ToFloat(x));
}

// The pair at `from`, of which `left` elements exist.
template <typename T>
__device__ Pair<T> LoadPair(const T* from, int64_t left) {
  if (left >= 2 && reinterpret_cast<uint64_t>(from) % sizeof(Pair<T>) == 0) {
    return *reinterpret_cast<const Pair<T>*>(from);
  }
  Pair<T> pair = {T(0.0f), T(0.0f)};
  if (left > 0) pair.first = from[0];
  if (left > 1) pair.second = from[1];
  return pair;
}
template <typename T>
__device__ void StorePair(T* to, Pair<T> pair, int64_t left) {
  if (left >= 2 && reinterpret_cast<uint64_t>(to) % sizeof(Pair<T>) == 0) {
    *reinterpret_cast<Pair<T>*>(to) = pair;
    return;
  }
  if (left > 0) to[0] = pair.first;
  if (left > 1) to[1] = pair.second;
}

// to[e][j][i] = from[e][i][j]: block (tile of 64 x 64, matrix).
template <typename From, typename To>
__global__ void __launch_bounds__(kThreads) pack_turned_kernel(const PackParameters<From, To> p) {
  __shared__ To tile[kSide][kSide + 4 / sizeof(To)];  // an odd number of words a row
  const int64_t columns = (p.n + kSide - 1) / kSide;
  const int64_t first_k = blockIdx.x / columns * kSide, first_n = blockIdx.x % columns * kSide;
  const int lane = threadIdx.x % kPairs, row = threadIdx.x / kPairs;
  const From* from = p.from + blockIdx.y * p.matrix_stride;
  To* to = p.to + blockIdx.y * p.n * p.k;
#pragma unroll
  for (int i = row; i < kSide; i += kRowsAtOnce) {
    const int64_t k = first_k + i, n = first_n + 2 * lane;
    const Pair<From> pair = LoadPair(from + k * p.row_stride + n, k < p.k ? p.n - n : 0);
    tile[i][2 * lane] = FromFloat<To>(ToFloat(pair.first));
    tile[i][2 * lane + 1] = FromFloat<To>(ToFloat(pair.second));
  }
  __syncthreads();
#pragma unroll
  for (int i = row; i < kSide; i += kRowsAtOnce) {
    const int64_t n = first_n + i, k = first_k + 2 * lane;
    const Pair<To> pair = {tile[2 * lane][i], tile[2 * lane + 1][i]};
    StorePair(to + n * p.k + k, pair, n < p.n ? p.k - k : 0);
  }
}

template <typename From, typename To>
void Pack(Stream& stream, const PackMatrixArgs& args) {
  const PackedMatrix& packed = args.packed;
  const int rank = args.b.shape().rank();
  // A strided matrix of rank 2 has its own row stride; of rank 3 the matrices may be apart.
  const PackParameters<From, To> p = {
      .from = static_cast<const From*>(args.b.raw_data()),
      .to = static_cast<To*>(packed.storage.raw_mutable_data()),
      .matrix_stride = rank == 2 ? int64_t{0} : args.b.row_stride(),
      .row_stride = rank == 2 ? args.b.row_stride() : args.b.extent(2),
      .n = packed.n,
      .k = packed.k};
  if (!args.transpose) {
    Launch(stream,
           {.blocks = CeilDiv(p.n, kSide) * CeilDiv(p.k, kSide),
            .threads = kThreads,
            .shared_bytes = 0,
            .blocks_y = packed.num_matrices},
           pack_turned_kernel<From, To>, p);
    return;
  }
  const bool is_whole = p.row_stride == p.k && (rank == 2 || p.matrix_stride == p.n * p.k);
  const auto elements = static_cast<size_t>(packed.num_matrices * p.n * p.k);
  if (std::is_same_v<From, To> && is_whole && (rank != 2 || packed.num_matrices == 1)) {
    if (elements == 0) return;
    CudaStream& cuda = CudaStream::From(stream);
    cuda.Note(cudaMemcpyAsync(p.to, p.from, elements * sizeof(To), cudaMemcpyDeviceToDevice,
                              cuda.handle()),
              "copying a matrix");
    return;
  }
  Launch(stream,
         {.blocks = CeilDiv(p.n * p.k, kThreads),
          .threads = kThreads,
          .shared_bytes = 0,
          .blocks_y = packed.num_matrices},
         pack_as_it_is_kernel<From, To>, p);
}

}  // namespace

void PackMatrix(Stream& stream, const PackMatrixArgs& args) {
  ForFloatType(args.b.dtype(), [&](auto from) {
    ForFloatType(args.packed.dtype, [&](auto to) {
      Pack<typename decltype(from)::Type, typename decltype(to)::Type>(stream, args);
    });
  });
}

}  // namespace sluice::kernels::cuda
