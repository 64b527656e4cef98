#include "kernels/ops/swiglu.h"

#include "kernels/cpu/swiglu.h"
#include "kernels/ops/check_arguments.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {

void Swiglu(Stream& stream, const SwigluArgs& args) {
  const DType dtype = CheckFloat("Swiglu.y", args.y);
  const Shape shape = args.y.shape();
  CHECK_EQ(shape.rank(), 2);
  CheckTensor(stream, "Swiglu.gate_up", args.gate_up, {shape[0], 2 * shape[1]}, dtype);
  CheckTensor(stream, "Swiglu.y", args.y, shape, dtype);
  RUN_OP(stream, Swiglu, args);
}

void SwigluBackward(Stream& stream, const SwigluBackwardArgs& args) {
  const DType dtype = CheckFloat("SwigluBackward.dy", args.dy);
  const Shape shape = args.dy.shape();
  CHECK_EQ(shape.rank(), 2);
  CheckTensor(stream, "SwigluBackward.dy", args.dy, shape, dtype);
  CheckTensor(stream, "SwigluBackward.gate_up", args.gate_up, {shape[0], 2 * shape[1]}, dtype);
  CheckTensor(stream, "SwigluBackward.dgate_up", args.dgate_up, {shape[0], 2 * shape[1]}, dtype);
  RUN_OP(stream, SwigluBackward, args);
}

}  // namespace sluice::kernels
