// Dense and grouped products by mma.sync (BF16) and FP32 arithmetic: they run on any GPU since
// compute capability 8.0, and are what faster kernels are compared with. What Hopper's own tensor
// instructions can do goes there.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/hopper_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul_tile.cuh"
#include "kernels/cuda/ops.h"

namespace sluice::kernels::cuda {
namespace {

template <typename T, typename Result>
__global__ void __launch_bounds__(kTileThreads) matmul_kernel(const Product<T, Result> p) {
  ComputeTile(p, static_cast<int64_t>(blockIdx.x) * kTile,
              static_cast<int64_t>(blockIdx.y) * kTile);
}

// Rows are packed without alignment. Block x is the x-th tile of all experts' tiles in order;
// blocks past the last tile have nothing to do. Expert e's b lies e * n * k elements on.
template <typename T, typename Result>
__global__ void __launch_bounds__(kTileThreads)
    grouped_matmul_kernel(Product<T, Result> p, const int32_t* offsets, int64_t experts) {
  int64_t tile = blockIdx.x;
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t begin = offsets[e], end = offsets[e + 1];
    const int64_t tiles = (end - begin + kTile - 1) / kTile;
    if (tile >= tiles) {
      tile -= tiles;
      continue;
    }
    p.a += begin * p.a_row;
    p.c += begin * p.c_row;
    p.m = end - begin;
    p.b += e * p.n * p.k;
    ComputeTile(p, tile * kTile, static_cast<int64_t>(blockIdx.y) * kTile);
    return;
  }
}

// Block y is the expert, x a tile of its dW. An expert with no token leaves it untouched.
template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    grouped_weight_gradient_kernel(Product<T, float> p, const int32_t* offsets) {
  const int64_t begin = offsets[blockIdx.y], end = offsets[blockIdx.y + 1];
  if (begin == end) return;
  p.a += begin * p.a_k;
  p.b += begin * p.b_k;
  p.c += static_cast<int64_t>(blockIdx.y) * p.m * p.n;
  p.k = end - begin;
  const int64_t columns = (p.n + kTile - 1) / kTile;
  ComputeTile(p, blockIdx.x / columns * kTile, blockIdx.x % columns * kTile);
}

template <typename T>
const T* PackedData(const PackedMatrix& packed) {
  return static_cast<const T*>(packed.storage.raw_data());
}

template <typename T, typename Result>
void RunMatmul(Stream& stream, const Product<T, Result>& p) {
  Launch(stream,
         {.blocks = CeilDiv(p.m, kTile),
          .threads = kTileThreads,
          .shared_bytes = 0,
          .blocks_y = CeilDiv(p.n, kTile)},
         matmul_kernel<T, Result>, p);
}

// run(T, Result) for the element types of the operands and of the result.
template <typename Run>
void ForTypes(DType operand, DType result, const Run& run) {
  if (operand == DType::kF32) return run(TypeTag<float>(), TypeTag<float>());
  ForFloatType(result, [&](auto tag) { run(TypeTag<bfloat16>(), tag); });
}

}  // namespace

void Matmul(Stream& stream, const MatmulArgs& args) {
  if (MatmulByWgmma(stream, args)) return;
  ForTypes(args.a.dtype(), args.c.dtype(), [&](auto operand, auto result) {
    using T = typename decltype(operand)::Type;
    using Result = typename decltype(result)::Type;
    RunMatmul<T, Result>(stream, {.a = static_cast<const T*>(args.a.raw_data()),
                                  .b = static_cast<const T*>(args.b.raw_data()),
                                  .c = static_cast<Result*>(args.c.raw_mutable_data()),
                                  .a_row = args.transpose_a ? 1 : args.a.row_stride(),
                                  .a_k = args.transpose_a ? args.a.row_stride() : 1,
                                  .b_column = args.transpose_b ? args.b.row_stride() : 1,
                                  .b_k = args.transpose_b ? 1 : args.b.row_stride(),
                                  .c_row = args.c.row_stride(),
                                  .m = args.c.extent(0),
                                  .n = args.c.extent(1),
                                  .k = args.a.extent(args.transpose_a ? 0 : 1),
                                  .accumulate = args.accumulate});
  });
}

void PackedMatmul(Stream& stream, const PackedMatmulArgs& args) {
  if (PackedMatmulByWgmma(stream, args)) return;
  ForTypes(args.a.dtype(), args.c.dtype(), [&](auto operand, auto result) {
    using T = typename decltype(operand)::Type;
    using Result = typename decltype(result)::Type;
    RunMatmul<T, Result>(stream, {.a = static_cast<const T*>(args.a.raw_data()),
                                  .b = PackedData<T>(args.b),
                                  .c = static_cast<Result*>(args.c.raw_mutable_data()),
                                  .a_row = args.a.row_stride(),
                                  .a_k = 1,
                                  .b_column = args.b.k,
                                  .b_k = 1,
                                  .c_row = args.c.row_stride(),
                                  .m = args.c.extent(0),
                                  .n = args.b.n,
                                  .k = args.b.k,
                                  .accumulate = args.accumulate});
  });
}

void GroupedMatmul(Stream& stream, const GroupedMatmulArgs& args) {
  if (GroupedMatmulByWgmma(stream, args)) return;
  ForTypes(args.x.dtype(), args.y.dtype(), [&](auto operand, auto result) {
    using T = typename decltype(operand)::Type;
    using Result = typename decltype(result)::Type;
    const Product<T, Result> p = {.a = static_cast<const T*>(args.x.raw_data()),
                                  .b = PackedData<T>(args.w),
                                  .c = static_cast<Result*>(args.y.raw_mutable_data()),
                                  .a_row = args.x.row_stride(),
                                  .a_k = 1,
                                  .b_column = args.w.k,
                                  .b_k = 1,
                                  .c_row = args.y.row_stride(),
                                  .m = args.y.extent(0),
                                  .n = args.w.n,
                                  .k = args.w.k,
                                  .accumulate = false};
    const int64_t experts = args.w.num_matrices;
    // At most one tile an expert is not full.
    const int64_t tiles = p.m == 0 ? 0 : p.m / kTile + experts;
    Launch(stream,
           {.blocks = tiles,
            .threads = kTileThreads,
            .shared_bytes = 0,
            .blocks_y = CeilDiv(p.n, kTile)},
           grouped_matmul_kernel<T, Result>, p, args.offsets.data<int32_t>(), experts);
  });
}

void GroupedWeightGradient(Stream& stream, const GroupedWeightGradientArgs& args) {
  CHECK(args.dw.is_contiguous()) << "dw is strided";
  if (GroupedWeightGradientByWgmma(stream, args)) return;
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const Product<T, float> p = {.a = static_cast<const T*>(args.dy.raw_data()),
                                 .b = static_cast<const T*>(args.x.raw_data()),
                                 .c = args.dw.mutable_data<float>(),
                                 .a_row = 1,
                                 .a_k = args.dy.row_stride(),
                                 .b_column = 1,
                                 .b_k = args.x.row_stride(),
                                 .c_row = args.dw.extent(2),
                                 .m = args.dw.extent(1),
                                 .n = args.dw.extent(2),
                                 .k = 0,
                                 .accumulate = true};
    Launch(stream,
           {.blocks = CeilDiv(p.m, kTile) * CeilDiv(p.n, kTile),
            .threads = kTileThreads,
            .shared_bytes = 0,
            .blocks_y = args.dw.extent(0)},
           grouped_weight_gradient_kernel<T>, p, args.offsets.data<int32_t>());
  });
}

}  // namespace sluice::kernels::cuda
