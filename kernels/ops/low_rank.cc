#include "kernels/ops/low_rank.h"

#include "kernels/cpu/low_rank.h"
#include "kernels/ops/check_arguments.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {

void ScaledAdd(Stream& stream, const ScaledAddArgs& args) {
  const DType dtype = CheckFloat("ScaledAdd.x", args.x);
  CHECK_EQ(args.x.shape().rank(), 2);
  CheckTensor(stream, "ScaledAdd.x", args.x, args.y.shape(), dtype);
  CheckTensor(stream, "ScaledAdd.y", args.y, args.x.shape(), dtype);
  RUN_OP(stream, ScaledAdd, args);
}

void Dropout(Stream& stream, const DropoutArgs& args) {
  const DType dtype = CheckFloat("Dropout.x", args.x);
  CHECK_EQ(args.x.shape().rank(), 2);
  CheckTensor(stream, "Dropout.x", args.x, args.y.shape(), dtype);
  CheckTensor(stream, "Dropout.y", args.y, args.x.shape(), dtype);
  CheckTensor(stream, "Dropout.row_ids", args.row_ids, {args.x.extent(0)}, DType::kI64);
  CHECK(args.rate >= 0 && args.rate < 1) << "Dropout.rate is " << args.rate;
  RUN_OP(stream, Dropout, args);
}

void RowIds(Stream& stream, const RowIdsArgs& args) {
  CheckTensor(stream, "RowIds.ids", args.ids, {args.ids.extent(0)}, DType::kI64);
  RUN_OP(stream, RowIds, args);
}

void SplitRowIds(Stream& stream, const SplitRowIdsArgs& args) {
  CheckTensor(stream, "SplitRowIds.parts", args.parts, {args.parts.extent(0), 2}, DType::kF32);
  CHECK(args.first >= 0 && args.first + args.parts.extent(0) <= int64_t{1} << 40)
      << "SplitRowIds.first is " << args.first;
  RUN_OP(stream, SplitRowIds, args);
}

void ExpertRowIds(Stream& stream, const ExpertRowIdsArgs& args) {
  const int64_t rows = args.ids.extent(0);
  CheckTensor(stream, "ExpertRowIds.ids", args.ids, {rows}, DType::kI64);
  CheckTensor(stream, "ExpertRowIds.parts", args.parts, {rows, 2}, DType::kF32);
  CheckTensor(stream, "ExpertRowIds.offsets", args.offsets, {args.offsets.extent(0)}, DType::kI32);
  RUN_OP(stream, ExpertRowIds, args);
}

}  // namespace sluice::kernels
