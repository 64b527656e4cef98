#include "kernels/ops/cast.h"

#include "kernels/cpu/cast.h"
#include "kernels/ops/check_arguments.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {

void Cast(Stream& stream, const CastArgs& args) {
  CheckTensor(stream, "Cast.from", args.from, args.to.shape(), CheckFloat("Cast.from", args.from));
  CheckTensor(stream, "Cast.to", args.to, args.from.shape(), CheckFloat("Cast.to", args.to));
  RUN_OP(stream, Cast, args);
}

void Fill(Stream& stream, TensorView to, double value) {
  CHECK(to.is_contiguous()) << "Fill.to is strided";
  CheckTensor(stream, "Fill.to", to, to.shape(), to.dtype());
  CHECK(to.dtype() != DType::kF64) << "Fill.to is f64";
  RUN_OP(stream, Fill, to, value);
}

void Add(Stream& stream, const AddArgs& args) {
  const DType dtype = CheckFloat("Add.a", args.a);
  const Shape shape = args.a.shape();
  CHECK(args.a.is_contiguous() && args.b.is_contiguous() && args.y.is_contiguous())
      << "Add takes contiguous tensors";
  CheckTensor(stream, "Add.a", args.a, shape, dtype);
  CheckTensor(stream, "Add.b", args.b, shape, dtype);
  CheckTensor(stream, "Add.y", args.y, shape, dtype);
  RUN_OP(stream, Add, args);
}

}  // namespace sluice::kernels
