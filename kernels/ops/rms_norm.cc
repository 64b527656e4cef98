#include "kernels/ops/rms_norm.h"

#include "kernels/cpu/rms_norm.h"
#include "kernels/ops/check_arguments.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {

void RmsNorm(Stream& stream, const RmsNormArgs& args) {
  const DType dtype = CheckFloat("RmsNorm.x", args.x);
  const Shape shape = args.x.shape();
  CHECK_EQ(shape.rank(), 2);
  CheckTensor(stream, "RmsNorm.x", args.x, shape, dtype);
  CheckTensor(stream, "RmsNorm.w", args.w, {shape[1]}, dtype);
  CheckTensor(stream, "RmsNorm.y", args.y, shape, dtype);
  CheckTensor(stream, "RmsNorm.inverse_rms", args.inverse_rms, {shape[0]}, DType::kF32);
  if (!args.residual.is_null()) {
    CheckTensor(stream, "RmsNorm.residual", args.residual, shape, dtype);
    CheckTensor(stream, "RmsNorm.residual_out", args.residual_out, shape, dtype);
  }
  RUN_OP(stream, RmsNorm, args);
}

void RmsNormBackwardInput(Stream& stream, const RmsNormBackwardInputArgs& args) {
  const DType dtype = CheckFloat("RmsNormBackwardInput.x", args.x);
  const Shape shape = args.x.shape();
  CHECK_EQ(shape.rank(), 2);
  CheckTensor(stream, "RmsNormBackwardInput.dy", args.dy, shape, dtype);
  CheckTensor(stream, "RmsNormBackwardInput.x", args.x, shape, dtype);
  CheckTensor(stream, "RmsNormBackwardInput.w", args.w, {shape[1]}, dtype);
  CheckTensor(stream, "RmsNormBackwardInput.inverse_rms", args.inverse_rms, {shape[0]},
              DType::kF32);
  CheckTensor(stream, "RmsNormBackwardInput.dx", args.dx, shape, dtype);
  if (!args.dx_add.is_null()) {
    CheckTensor(stream, "RmsNormBackwardInput.dx_add", args.dx_add, shape, dtype);
  }
  RUN_OP(stream, RmsNormBackwardInput, args);
}

void RmsNormBackwardWeight(Stream& stream, const RmsNormBackwardWeightArgs& args) {
  const DType dtype = CheckFloat("RmsNormBackwardWeight.x", args.x);
  const Shape shape = args.x.shape();
  CHECK_EQ(shape.rank(), 2);
  CheckTensor(stream, "RmsNormBackwardWeight.dy", args.dy, shape, dtype);
  CheckTensor(stream, "RmsNormBackwardWeight.x", args.x, shape, dtype);
  CheckTensor(stream, "RmsNormBackwardWeight.inverse_rms", args.inverse_rms, {shape[0]},
              DType::kF32);
  CheckTensor(stream, "RmsNormBackwardWeight.dw", args.dw, {shape[1]}, DType::kF32);
  RUN_OP(stream, RmsNormBackwardWeight, args);
}

}  // namespace sluice::kernels
