#include "kernels/ops/permute.h"

#include "kernels/cpu/permute.h"
#include "kernels/ops/check_arguments.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {

void GatherRows(Stream& stream, const GatherRowsArgs& args) {
  const DType dtype =
      args.x.dtype() == DType::kU8 ? DType::kU8 : CheckFloat("GatherRows.x", args.x);
  CHECK_EQ(args.x.shape().rank(), 2);
  CHECK_EQ(args.index.shape().rank(), 1);
  CheckTensor(stream, "GatherRows.x", args.x, args.x.shape(), dtype);
  CheckTensor(stream, "GatherRows.index", args.index, args.index.shape(), DType::kI32);
  CheckTensor(stream, "GatherRows.y", args.y, {args.index.extent(0), args.x.extent(1)}, dtype);
  RUN_OP(stream, GatherRows, args);
}

void CombineRows(Stream& stream, const CombineRowsArgs& args) {
  const DType dtype = CheckFloat("CombineRows.rows", args.rows);
  CHECK_EQ(args.rows.shape().rank(), 2);
  CHECK_EQ(args.row_of.shape().rank(), 2);
  const Shape y_shape = {args.row_of.extent(0), args.rows.extent(1)};
  CheckTensor(stream, "CombineRows.rows", args.rows, args.rows.shape(), dtype);
  CheckTensor(stream, "CombineRows.row_of", args.row_of, args.row_of.shape(), DType::kI32);
  if (!args.weights.is_null()) {
    CheckTensor(stream, "CombineRows.weights", args.weights, args.row_of.shape(), DType::kF32);
  }
  if (!args.base.is_null()) CheckTensor(stream, "CombineRows.base", args.base, y_shape, dtype);
  CheckTensor(stream, "CombineRows.y", args.y, y_shape, dtype);
  RUN_OP(stream, CombineRows, args);
}

void CombineRowsBackward(Stream& stream, const CombineRowsBackwardArgs& args) {
  const DType dtype = CheckFloat("CombineRowsBackward.rows", args.rows);
  const Shape shape = args.rows.shape();
  CHECK_EQ(shape.rank(), 2);
  CHECK_EQ(args.row_of.shape().rank(), 2);
  const Shape top = args.row_of.shape();
  CHECK_EQ(top.num_elements(), shape[0]) << "row_of covers every row exactly once";
  CheckTensor(stream, "CombineRowsBackward.dy", args.dy, {top[0], shape[1]}, dtype);
  CheckTensor(stream, "CombineRowsBackward.rows", args.rows, shape, dtype);
  CheckTensor(stream, "CombineRowsBackward.row_of", args.row_of, top, DType::kI32);
  CheckTensor(stream, "CombineRowsBackward.weights", args.weights, top, DType::kF32);
  CheckTensor(stream, "CombineRowsBackward.drows", args.drows, shape, dtype);
  CheckTensor(stream, "CombineRowsBackward.dweights", args.dweights, top, DType::kF32);
  RUN_OP(stream, CombineRowsBackward, args);
}

}  // namespace sluice::kernels
