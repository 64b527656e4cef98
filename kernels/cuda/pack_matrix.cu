// The right operand of a product with K innermost, as the products read it fastest.
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/turn_tile.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = kTurnThreads;

template <typename From, typename To>
struct PackParameters {
  const From* from;
  To* to;                             // [matrices, n, k]
  int64_t matrix_stride, row_stride;  // of `from`
  int64_t n, k;
  bool is_cut;
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

// to[e][j][i] = from[e][i][j]: block (tile, matrix).
template <typename From, typename To>
__global__ void __launch_bounds__(kThreads) pack_turned_kernel(const PackParameters<From, To> p) {
  using Tile = TurnTile<sizeof(To)>;
  constexpr int kElements = Chunk<To>::kElements, kChunks = Tile::kSide / kElements;
  constexpr int kRowsAtOnce = kThreads / kChunks, kRows = Tile::kSide / kRowsAtOnce;
  __shared__ Tile tile;
  const int64_t columns = (p.n + Tile::kSide - 1) / Tile::kSide;
  const int64_t first_k = blockIdx.x / columns * Tile::kSide;
  const int64_t first_n = blockIdx.x % columns * Tile::kSide;
  const int row = threadIdx.x / kChunks, column = threadIdx.x % kChunks * kElements;
  const From* from = p.from + blockIdx.y * p.matrix_stride;
  To* to = p.to + blockIdx.y * p.n * p.k;
  Chunk<From, kElements> held[kRows];
  LoadChunks(held, p.is_cut, [&](int i) {
    const int64_t k = first_k + row + i * kRowsAtOnce, n = first_n + column;
    return Part<const From>{from + k * p.row_stride + n, k < p.k ? p.n - n : 0};
  });
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if constexpr (std::is_same_v<From, To>) {
      tile.PutRow(row + i * kRowsAtOnce, column, held[i]);
    } else {
      float x[kElements];
      ToFloats(held[i], x);
      tile.PutRow(row + i * kRowsAtOnce, column, FromFloats<To>(x));
    }
  }
  __syncthreads();
  StoreColumns<To>(tile, p.n - first_n, p.k - first_k, {to + first_n * p.k + first_k, p.k});
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
      .k = packed.k,
      .is_cut = IsCut({args.b}) && packed.n % Chunk<To>::kElements == 0};
  if (!args.transpose) {
    constexpr int64_t kSide = TurnTile<sizeof(To)>::kSide;
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
