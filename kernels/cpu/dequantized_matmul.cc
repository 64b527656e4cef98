#include "kernels/cpu/dequantized_matmul.h"

#include <algorithm>

#include "kernels/cpu/matmul.h"
#include "kernels/cpu/op_table.h"
#include "kernels/cpu/scratch.h"

namespace sluice::kernels::cpu {
namespace {

// Values of the weight that exist at a time: 2 MiB in BF16.
constexpr int64_t kPartElements = 1 << 20;
constexpr int64_t kRowsPerTask = 16;

// Rows [row, row + rows) and columns [column, column + columns) of expert e's weight; columns start
// at a block.
struct WeightPart {
  int64_t e = 0, row = 0, rows = 0, column = 0, columns = 0;
};

// The scale row of weight row `row`.
int64_t TileOfRow(const ConstTensorView& bounds, int64_t row) {
  if (bounds.is_null()) return row / kQuantTile;
  const int32_t* first = bounds.data<int32_t>();
  return std::upper_bound(first, first + bounds.extent(0), row) - first - 1;
}

// values [rows, columns]
void WriteValues(ThreadPool& pool, const QuantizedWeight& w, const WeightPart& part,
                 const TensorView& values) {
  const auto dequantize = Table().block_quantize.dequantize[values.dtype()];
  const int64_t in = w.codes.extent(2), blocks = w.scales.extent(2);
  auto* codes = w.codes.mutable_data<E4M3>() + part.e * w.codes.row_stride() + part.column;
  auto* scales =
      w.scales.mutable_data<float>() + part.e * w.scales.row_stride() + part.column / kQuantTile;
  pool.ParallelRanges(part.rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t row = part.row + r, tile = TileOfRow(w.row_tiles, row);
      dequantize({.rows = {.codes = TensorView(codes + row * in, DType::kE4M3, {1, part.columns}),
                           .scales = TensorView(scales + tile * blocks, DType::kF32,
                                                {1, NumTiles(part.columns)})},
                  .y = values.Rows(r, 1)},
                 0, 1);
    }
  });
}

}  // namespace

void DequantizedMatmul(ThreadPool& pool, const DequantizedMatmulArgs& args) {
  thread_local Scratch scratch;  // an op never runs inside another
  const QuantizedWeight& w = args.w;
  const bool forward = args.direction == Fp8Direction::kForward;
  const DType dtype = args.a.dtype();
  const int64_t out = w.codes.extent(1), in = w.codes.extent(2);
  const int64_t n = forward ? out : in, k = forward ? in : out;
  // Whole blocks of columns, so that a part starts at one.
  const int64_t most =
      std::max<int64_t>(1, kPartElements / std::max<int64_t>(1, k) / kQuantTile) * kQuantTile;
  for (int64_t e = 0; e < w.codes.extent(0); ++e) {
    const bool all = args.offsets.is_null();
    const int64_t begin = all ? 0 : args.offsets.data<int32_t>()[e];
    const int64_t rows = (all ? args.a.extent(0) : args.offsets.data<int32_t>()[e + 1]) - begin;
    if (rows == 0) continue;
    for (int64_t column = 0; column < n; column += most) {
      const int64_t columns = std::min(most, n - column);
      const WeightPart part =
          forward ? WeightPart{e, column, columns, 0, in} : WeightPart{e, 0, out, column, columns};
      const TensorView values(
          scratch.Get<char>(static_cast<size_t>(part.rows * part.columns) * SizeOf(dtype)), dtype,
          {part.rows, part.columns});
      WriteValues(pool, w, part, values);
      Matmul(pool, {.a = args.a.Rows(begin, rows),
                    .b = values,
                    .c = args.c.Rows(begin, rows).Columns(column, columns),
                    .transpose_b = forward});
    }
  }
}

}  // namespace sluice::kernels::cpu
