#include "kernels/ops/compare.h"

#include <cstring>

#include "kernels/ops/check_arguments.h"
#include "kernels/ops/dispatch.h"
#include "kernels/ops/host_operands.h"

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
  HostOperands host(stream);
  host.Run([a = host.Of(args.a), b = host.Of(args.b), args] {
    for (int64_t r = 0; r < a.extent(0); ++r) {
      for (int64_t c = 0; c < a.extent(1); ++c) {
        const double of_b = At(b, r * b.row_stride() + c);
        const double difference = At(a, r * a.row_stride() + c) - of_b;
        *args.difference += difference * difference;
        *args.norm += of_b * of_b;
      }
    }
  });
}

void Sample(Stream& stream, const SampleArgs& args) {
  const Shape from = args.x.shape(), to = args.y.shape();
  CHECK(from.rank() == 2 && to.rank() == 2) << from << " to " << to;
  CheckTensor(stream, "x", args.x, from, args.x.dtype());
  CheckTensor(stream, "y", args.y, to, args.x.dtype());
  CHECK(to[0] <= from[0] && to[1] <= from[1]) << to << " of " << from;
  if constexpr (kWithCuda) {
    if (IsOnCuda(stream)) return cuda::Sample(stream, args);
  }
  CpuStream::From(stream).Run([args, from, to](ThreadPool& /*pool*/) {
    const auto bytes = static_cast<int64_t>(SizeOf(args.x.dtype()));
    const auto* x = static_cast<const char*>(args.x.raw_data());
    auto* y = static_cast<char*>(args.y.raw_mutable_data());
    for (int64_t i = 0; i < to[0]; ++i) {
      for (int64_t j = 0; j < to[1]; ++j) {
        const int64_t row = i * from[0] / to[0], column = j * from[1] / to[1];
        std::memcpy(y + (i * args.y.row_stride() + j) * bytes,
                    x + (row * args.x.row_stride() + column) * bytes, static_cast<size_t>(bytes));
      }
    }
  });
}

}  // namespace sluice::kernels
