#include "kernels/ops/compare.h"

#include <cstring>

#include "kernels/core/cpu_stream.h"
#include "kernels/ops/check_arguments.h"

namespace sluice::kernels {
namespace {

double At(const ConstTensorView& view, int64_t i) {
  return view.dtype() == DType::kBF16 ? ToFloat(view.data<BFloat16>()[i]) : view.data<float>()[i];
}

}  // namespace

void AddSquaredDifference(Stream& stream, const SquaredDifferenceArgs& args) {
  const Shape shape = args.a.shape();
  CHECK_EQ(shape.rank(), 2);
  CheckTensor(stream, "a", args.a, shape, CheckFloat("a", args.a));
  CheckTensor(stream, "b", args.b, shape, CheckFloat("b", args.b));
  CHECK(args.difference != nullptr && args.norm != nullptr);
  CpuStream::From(stream).Run([args](ThreadPool& /*pool*/) {
    for (int64_t r = 0; r < args.a.extent(0); ++r) {
      for (int64_t c = 0; c < args.a.extent(1); ++c) {
        const double b = At(args.b, r * args.b.row_stride() + c);
        const double difference = At(args.a, r * args.a.row_stride() + c) - b;
        *args.difference += difference * difference;
        *args.norm += b * b;
      }
    }
  });
}

void SampleColumns(Stream& stream, const SampleColumnsArgs& args) {
  const int64_t rows = args.x.extent(0), wanted = args.y.extent(1);
  const DType dtype = args.x.dtype();
  CheckTensor(stream, "x", args.x, {rows, args.x.extent(1)}, dtype);
  CheckTensor(stream, "y", args.y, {rows, wanted}, dtype);
  CHECK_LE(wanted, args.x.extent(1));
  CpuStream::From(stream).Run([args, rows, wanted](ThreadPool& /*pool*/) {
    const auto bytes = static_cast<int64_t>(SizeOf(args.x.dtype()));
    const auto* from = static_cast<const char*>(args.x.raw_data());
    auto* to = static_cast<char*>(args.y.raw_mutable_data());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < wanted; ++j) {
        const int64_t column = j * args.x.extent(1) / wanted;
        std::memcpy(to + (r * args.y.row_stride() + j) * bytes,
                    from + (r * args.x.row_stride() + column) * bytes, static_cast<size_t>(bytes));
      }
    }
  });
}

}  // namespace sluice::kernels
