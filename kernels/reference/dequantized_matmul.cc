#include "kernels/reference/dequantized_matmul.h"

#include "kernels/reference/access.h"

namespace sluice::kernels::reference {
namespace {

// Element (row, column) of expert e: one product in FP32, one rounding to the dtype of `a`.
double WeightValue(const DequantizedMatmulArgs& args, int64_t e, int64_t row, int64_t column) {
  const QuantizedWeight& w = args.w;
  int64_t tile = 0;
  if (w.row_tiles.is_null()) {
    tile = row / kQuantTile;
  } else {
    while (w.row_tiles.data<int32_t>()[tile + 1] <= row) ++tile;
  }
  const E4M3 code =
      w.codes.data<E4M3>()[e * w.codes.row_stride() + row * w.codes.extent(2) + column];
  const float scale = w.scales.data<float>()[e * w.scales.row_stride() + tile * w.scales.extent(2) +
                                             column / kQuantTile];
  const float value = ToFloat(code) * scale;
  return args.a.dtype() == DType::kBF16 ? ToFloat(ToBFloat16(value)) : value;
}

}  // namespace

void DequantizedMatmul(const DequantizedMatmulArgs& args) {
  const bool forward = args.direction == Fp8Direction::kForward;
  for (int64_t r = 0; r < args.c.extent(0); ++r) {
    int64_t e = 0;
    while (!args.offsets.is_null() && args.offsets.data<int32_t>()[e + 1] <= r) ++e;
    for (int64_t n = 0; n < args.c.extent(1); ++n) {
      double sum = 0;
      for (int64_t k = 0; k < args.a.extent(1); ++k) {
        sum += Get(args.a, r, k) * WeightValue(args, e, forward ? n : k, forward ? k : n);
      }
      Set(args.c, sum, r, n);
    }
  }
}

}  // namespace sluice::kernels::reference
