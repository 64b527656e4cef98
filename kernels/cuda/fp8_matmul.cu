// Products of E4M3 codes with their scales by mma.sync: any GPU since compute capability 8.9, any
// shape, stride and alignment, and what faster kernels are compared with. Weights are read where K
// is contiguous: codes forward, transposed_codes backward.
#include "kernels/cuda/fp8_tile.cuh"
#include "kernels/cuda/hopper_ops.h"
#include "kernels/cuda/ops.h"

namespace sluice::kernels::cuda {
namespace {

constexpr int64_t kTile = kFp8Tile;

// Where the groups (experts) lie: rows of c, or ranges of K.
struct Fp8Groups {
  const int32_t* offsets;  // null: one group with everything
  int64_t count, total;
  __device__ int64_t Begin(int64_t e) const { return offsets == nullptr ? 0 : offsets[e]; }
  __device__ int64_t End(int64_t e) const { return offsets == nullptr ? total : offsets[e + 1]; }
};

// Rows are packed without alignment. Block x is the x-th tile of all groups' tiles in order; blocks
// past the last tile have nothing to do. Group e's weight lies e * n * k codes on, and e * b_scales
// scales.
template <typename Result>
__global__ void __launch_bounds__(kFp8Threads)
    fp8_matmul_kernel(Fp8Product<Result> p, const Fp8Groups groups, int64_t b_scales) {
  int64_t tile = blockIdx.x;
  for (int64_t e = 0; e < groups.count; ++e) {
    const int64_t begin = groups.Begin(e), rows = groups.End(e) - begin;
    const int64_t tiles = (rows + kTile - 1) / kTile;
    if (tile >= tiles) {
      tile -= tiles;
      continue;
    }
    p.a.codes += begin * p.a.row;
    p.a.scales += begin * p.a.scale_row;
    p.c += begin * p.c_row;
    p.m = rows;
    p.b.codes += e * p.n * p.k;
    p.b.scales += e * b_scales;
    ComputeFp8Tile(p, tile * kTile, static_cast<int64_t>(blockIdx.y) * kTile);
    return;
  }
}

// Block y is the group, x a tile of its dW. Its scales begin at row begin / 128 + e, and so do its
// codes, 128 for each, where they are transposed. A group with no row leaves dW untouched.
__global__ void __launch_bounds__(kFp8Threads)
    fp8_weight_gradient_kernel(Fp8Product<float> p, const Fp8Groups groups, bool is_transposed) {
  const int64_t e = blockIdx.y, begin = groups.Begin(e), rows = groups.End(e) - begin;
  if (rows == 0) return;
  const int64_t first_scale = begin / kQuantTile + e;
  const int64_t first_code = is_transposed ? first_scale * kQuantTile : begin;
  p.a.codes += first_code * p.a.along_k;
  p.b.codes += first_code * p.b.along_k;
  p.a.scales += first_scale * p.a.scale_tile;
  p.b.scales += first_scale * p.b.scale_tile;
  p.c += e * p.m * p.n;
  p.k = rows;
  p.k_tiles = (rows + kQuantTile - 1) / kQuantTile;
  const int64_t columns = (p.n + kTile - 1) / kTile;
  ComputeFp8Tile(p, blockIdx.x / columns * kTile, blockIdx.x % columns * kTile);
}

const uint8_t* CodesOf(const ConstTensorView& codes) {
  return static_cast<const uint8_t*>(codes.raw_data());
}

Fp8Groups GroupsOf(const ConstTensorView& offsets, int64_t total) {
  if (offsets.is_null()) return {nullptr, 1, total};
  return {offsets.data<int32_t>(), offsets.extent(0) - 1, total};
}

// The columns of x or dy as an operand: rows of the product are columns of the tensor.
Fp8Operand ColumnsOf(const QuantizedColumns& columns) {
  const int64_t stride = columns.codes.row_stride();
  return {.codes = CodesOf(columns.codes),
          .row = columns.transposed ? stride : 1,
          .along_k = columns.transposed ? 1 : stride,
          .scales = columns.scales.mutable_data<float>(),
          .scale_row = 1,
          .scale_tile = columns.scales.row_stride(),
          .has_scale_per_row = true,
          .bounds = nullptr};
}

}  // namespace

void Fp8Matmul(Stream& stream, const Fp8MatmulArgs& args) {
  if (Fp8MatmulByWgmma(stream, args)) return;
  const QuantizedWeight& w = args.w;
  const bool is_forward = args.direction == Fp8Direction::kForward;
  const ConstTensorView codes = is_forward ? w.codes : w.transposed_codes;     // [E, N, K]
  const ConstTensorView scales = is_forward ? w.scales : w.transposed_scales;  // [E, N/128, K/128]
  const int32_t* row_tiles = w.row_tiles.is_null() ? nullptr : w.row_tiles.data<int32_t>();
  const Fp8Groups groups = GroupsOf(args.offsets, args.c.extent(0));
  ForFloatType(args.c.dtype(), [&](auto tag) {
    using Result = typename decltype(tag)::Type;
    const Fp8Product<Result> p = {.a = {.codes = CodesOf(args.a.codes),
                                        .row = args.a.codes.row_stride(),
                                        .along_k = 1,
                                        .scales = args.a.scales.template mutable_data<float>(),
                                        .scale_row = args.a.scales.row_stride(),
                                        .scale_tile = 1,
                                        .has_scale_per_row = true,
                                        .bounds = nullptr},
                                  .b = {.codes = CodesOf(codes),
                                        .row = codes.extent(2),
                                        .along_k = 1,
                                        .scales = scales.data<float>(),
                                        .scale_row = scales.extent(2),
                                        .scale_tile = 1,
                                        .has_scale_per_row = false,
                                        .bounds = is_forward ? row_tiles : nullptr},
                                  .c = static_cast<Result*>(args.c.raw_mutable_data()),
                                  .c_row = args.c.row_stride(),
                                  .m = args.c.extent(0),
                                  .n = codes.extent(1),
                                  .k = codes.extent(2),
                                  .k_bounds = is_forward ? nullptr : row_tiles,
                                  .k_tiles = scales.extent(2),
                                  .accumulate = false};
    Launch(stream,
           {.blocks = p.m == 0 ? 0 : p.m / kTile + groups.count,  // one of a group is not full
            .threads = kFp8Threads,
            .shared_bytes = 0,
            .blocks_y = CeilDiv(p.n, kTile)},
           fp8_matmul_kernel<Result>, p, groups, scales.extent(1) * scales.extent(2));
  });
}

void Fp8WeightGradient(Stream& stream, const Fp8WeightGradientArgs& args) {
  CHECK(args.dw.is_contiguous()) << "dw is strided";
  if (Fp8WeightGradientByWgmma(stream, args)) return;
  const ConstTensorView& x = args.x.codes;
  const Fp8Groups groups = GroupsOf(args.offsets, x.extent(args.x.transposed ? 1 : 0));
  const Fp8Product<float> p = {.a = ColumnsOf(args.dy),
                               .b = ColumnsOf(args.x),
                               .c = args.dw.mutable_data<float>(),
                               .c_row = args.dw.extent(2),
                               .m = args.dw.extent(1),
                               .n = args.dw.extent(2),
                               .k = 0,
                               .k_bounds = nullptr,
                               .k_tiles = 0,
                               .accumulate = true};
  Launch(stream,
         {.blocks = CeilDiv(p.m, kTile) * CeilDiv(p.n, kTile),
          .threads = kFp8Threads,
          .shared_bytes = 0,
          .blocks_y = args.dw.extent(0)},
         fp8_weight_gradient_kernel, p, groups, args.x.transposed);
}

}  // namespace sluice::kernels::cuda
