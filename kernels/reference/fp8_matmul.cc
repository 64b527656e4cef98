#include "kernels/reference/fp8_matmul.h"

#include "kernels/reference/access.h"

namespace sluice::kernels::reference {
namespace {

// The tile that element i of an axis lies in.
int64_t TileOf(const ConstTensorView& tiles, int64_t i) {
  if (tiles.is_null()) return i / kQuantTile;
  int64_t index = 0;
  while (tiles.data<int32_t>()[index + 1] <= i) ++index;
  return index;
}

double Code(const ConstTensorView& codes, int64_t row, int64_t column) {
  return ToFloat(codes.data<E4M3>()[row * codes.row_stride() + column]);
}

int64_t GroupOf(const ConstTensorView& offsets, int64_t row) {
  int64_t group = 0;
  while (!offsets.is_null() && offsets.data<int32_t>()[group + 1] <= row) ++group;
  return group;
}

double ValueOf(const QuantizedColumns& columns, const ConstTensorView& offsets, int64_t row,
               int64_t column) {
  const int64_t group = GroupOf(offsets, row);
  const int64_t begin = offsets.is_null() ? 0 : offsets.data<int32_t>()[group];
  const int64_t tile = begin / kQuantTile + group + (row - begin) / kQuantTile;
  return Code(columns.codes, row, column) * Get(columns.scales, tile, column);
}

}  // namespace

void Fp8Matmul(const Fp8MatmulArgs& args) {
  const QuantizedWeight& w = args.w;
  const bool forward = args.direction == Fp8Direction::kForward;
  const int64_t in = w.codes.extent(2), k_extent = args.a.codes.extent(1);
  for (int64_t r = 0; r < args.c.extent(0); ++r) {
    const int64_t e = GroupOf(args.offsets, r);
    for (int64_t n = 0; n < args.c.extent(1); ++n) {
      double sum = 0;
      for (int64_t k = 0; k < k_extent; ++k) {
        const int64_t row = forward ? n : k, column = forward ? k : n;
        const int64_t tile = TileOf(forward ? ConstTensorView() : w.row_tiles, k);
        const double scale =
            Get(w.scales, e, TileOf(w.row_tiles, row) * w.scales.extent(2) + column / kQuantTile);
        sum += Code(args.a.codes, r, k) * Get(args.a.scales, r, tile) *
               Code(w.codes, e, row * in + column) * scale;
      }
      Set(args.c, sum, r, n);
    }
  }
}

void Fp8WeightGradient(const Fp8WeightGradientArgs& args) {
  const int64_t out = args.dw.extent(1), in = args.dw.extent(2);
  for (int64_t t = 0; t < args.x.codes.extent(0); ++t) {
    const int64_t e = GroupOf(args.offsets, t);
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < in; ++i) {
        Set(args.dw,
            Get(args.dw, e, o * in + i) +
                ValueOf(args.dy, args.offsets, t, o) * ValueOf(args.x, args.offsets, t, i),
            e, o * in + i);
      }
    }
  }
}

}  // namespace sluice::kernels::reference
