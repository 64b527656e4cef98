#include "kernels/ops/compare.h"

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

}  // namespace sluice::kernels
