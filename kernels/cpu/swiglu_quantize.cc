// The loops of swiglu and of block_quantize, a row tile at a time: what the one writes, the other
// finds in the cache.
#include "kernels/cpu/swiglu_quantize.h"

#include "kernels/cpu/op_table.h"
#include "kernels/cpu/row_tiles.h"
#include "kernels/cpu/scratch.h"

namespace sluice::kernels::cpu {
namespace {

// Rows of `values`, or, if it is null, room for them in this thread's scratch.
TensorView RowsOrScratch(const TensorView& values, const RowTile& tile, int64_t width) {
  const int64_t rows = tile.end - tile.begin;
  if (!values.is_null()) return values.Rows(tile.begin, rows);
  thread_local Scratch scratch;
  return {scratch.Get<BFloat16>(static_cast<size_t>(kQuantTile * width)), DType::kBF16,
          Shape{rows, width}};
}

// The tile `x` of the columns from `column` on, of `args` which says where all codes go.
template <typename Args>
void QuantizeTile(const Args& args, const RowTile& tile, const TensorView& x, int64_t column) {
  const int64_t rows = x.extent(0), width = x.extent(1), first = NumTiles(width) * (column > 0);
  QuantizeArgs one;
  one.x = x;
  one.options = args.options;
  if (!args.rows.is_null()) {
    one.rows = {args.rows.codes.Columns(column, width).Rows(tile.begin, rows),
                args.rows.scales.Columns(first, NumTiles(width)).Rows(tile.begin, rows)};
  }
  if (!args.columns.is_null()) {
    one.columns = {args.columns.codes.Columns(column, width).Rows(tile.begin, rows),
                   args.columns.scales.Columns(column, width)};
  }
  Table().block_quantize.quantize_bf16(one, {0, rows, tile.index});
}

}  // namespace

void SwigluQuantize(ThreadPool& pool, const SwigluQuantizeArgs& args) {
  const int64_t width = args.gate_up.extent(1) / 2;
  ForEachRowTile(pool, args.gate_up.extent(0), args.offsets, [&](const RowTile& tile) {
    const TensorView y = RowsOrScratch(args.y, tile, width);
    const int64_t rows = y.extent(0);
    Table().swiglu.forward.bf16({.gate_up = args.gate_up.Rows(tile.begin, rows), .y = y}, 0, rows);
    QuantizeTile(args, tile, y, 0);
  });
}

// Gate's and up's columns are quantised each by itself, so that their tiles are cut from their own
// first column.
void SwigluBackwardQuantize(ThreadPool& pool, const SwigluBackwardQuantizeArgs& args) {
  const int64_t width = args.dy.extent(1);
  ForEachRowTile(pool, args.dy.extent(0), args.offsets, [&](const RowTile& tile) {
    const TensorView dgate_up = RowsOrScratch(args.dgate_up, tile, 2 * width);
    const int64_t rows = dgate_up.extent(0);
    Table().swiglu.backward.bf16({.dy = args.dy.Rows(tile.begin, rows),
                                  .gate_up = args.gate_up.Rows(tile.begin, rows),
                                  .dgate_up = dgate_up},
                                 0, rows);
    for (const int64_t column : {int64_t{0}, width}) {
      QuantizeTile(args, tile, dgate_up.Columns(column, width), column);
    }
  });
}

}  // namespace sluice::kernels::cpu
