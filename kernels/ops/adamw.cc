#include "kernels/ops/adamw.h"

#include "kernels/cpu/adamw.h"
#include "kernels/ops/check_arguments.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {

void AdamW(Stream& stream, const AdamWArgs& args) {
  const Shape shape = args.master.shape();
  const DType moments = CheckFloat("AdamW.m", args.m);
  CHECK_EQ(shape.rank(), 1);
  CHECK_GE(args.step, 1);
  CheckTensor(stream, "AdamW.master", args.master, shape, DType::kF32);
  CheckTensor(stream, "AdamW.gradient", args.gradient, shape, DType::kF32);
  CheckTensor(stream, "AdamW.m", args.m, shape, moments);
  CheckTensor(stream, "AdamW.v", args.v, shape, moments);
  if (!args.value.is_null()) {
    CheckTensor(stream, "AdamW.value", args.value, shape, CheckFloat("AdamW.value", args.value));
  }
  RUN_OP(stream, AdamW, args);
}

void SumSquares(Stream& stream, const SumSquaresArgs& args) {
  constexpr int64_t kBlock = 4096;
  const Shape shape = args.x.shape();
  CHECK_EQ(shape.rank(), 1);
  CheckTensor(stream, "SumSquares.x", args.x, shape, DType::kF32);
  CheckTensor(stream, "SumSquares.sum", args.sum, {1}, DType::kF64);
  CheckTensor(stream, "SumSquares.scratch", args.scratch.Rows(0, (shape[0] + kBlock - 1) / kBlock),
              {(shape[0] + kBlock - 1) / kBlock}, DType::kF64);
  RUN_OP(stream, SumSquares, args);
}

}  // namespace sluice::kernels
