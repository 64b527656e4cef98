#include "kernels/reference/matmul.h"

namespace sluice::kernels::reference {
namespace {

// Element (row, column) of a rank-2 view.
double At(const ConstTensorView& view, int64_t row, int64_t column) {
  const int64_t index = row * view.row_stride() + column;
  if (view.dtype() == DType::kBF16) return ToFloat(view.data<BFloat16>()[index]);
  return view.data<float>()[index];
}

void Put(const TensorView& view, int64_t row, int64_t column, double value) {
  const int64_t index = row * view.row_stride() + column;
  const float rounded = static_cast<float>(value);
  if (view.dtype() == DType::kBF16) {
    view.mutable_data<BFloat16>()[index] = ToBFloat16(rounded);
  } else {
    view.mutable_data<float>()[index] = rounded;
  }
}

// Matrix `e` of a rank-3 view.
TensorView MatrixOf(const ConstTensorView& view, int64_t e) {
  const size_t offset_bytes = static_cast<size_t>(e * view.row_stride()) * SizeOf(view.dtype());
  char* data = static_cast<char*>(const_cast<void*>(view.raw_data())) + offset_bytes;
  return TensorView(data, view.dtype(), {view.extent(1), view.extent(2)}, view.device());
}

}  // namespace

void Matmul(const MatmulArgs& args) {
  const int64_t k = args.a.extent(args.transpose_a ? 0 : 1);
  for (int64_t i = 0; i < args.c.extent(0); ++i) {
    for (int64_t j = 0; j < args.c.extent(1); ++j) {
      double sum = 0;
      for (int64_t p = 0; p < k; ++p) {
        const double a = args.transpose_a ? At(args.a, p, i) : At(args.a, i, p);
        const double b = args.transpose_b ? At(args.b, j, p) : At(args.b, p, j);
        sum += a * b;
      }
      Put(args.c, i, j, args.accumulate ? At(args.c, i, j) + sum : sum);
    }
  }
}

void GroupedMatmul(const GroupedMatmulArgs& args) {
  const int32_t* offsets = args.offsets.data<int32_t>();
  for (int64_t e = 0; e < args.w.extent(0); ++e) {
    const int64_t rows = offsets[e + 1] - offsets[e];
    Matmul({.a = args.x.Rows(offsets[e], rows),
            .b = MatrixOf(args.w, e),
            .c = args.y.Rows(offsets[e], rows),
            .transpose_b = args.transpose_w});
  }
}

void GroupedWeightGradient(const GroupedWeightGradientArgs& args) {
  const int32_t* offsets = args.offsets.data<int32_t>();
  for (int64_t e = 0; e < args.dw.extent(0); ++e) {
    const int64_t rows = offsets[e + 1] - offsets[e];
    Matmul({.a = args.dy.Rows(offsets[e], rows),
            .b = args.x.Rows(offsets[e], rows),
            .c = MatrixOf(args.dw, e),
            .transpose_a = true,
            .accumulate = true});
  }
}

}  // namespace sluice::kernels::reference
