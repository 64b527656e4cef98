#include "kernels/ops/reduce_rows.h"

#include "kernels/cpu/reduce_rows.h"
#include "kernels/cuda/reduce_rows.h"
#include "kernels/ops/check_arguments.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {

void ReduceRows(Stream& stream, const ReduceRowsArgs& args) {
  const DType dtype = args.y.dtype();
  CHECK(dtype == DType::kF32 || dtype == DType::kF64 || dtype == DType::kI32 ||
        dtype == DType::kI64)
      << "ReduceRows of " << NameOf(dtype).data();
  CHECK_EQ(args.rows.shape().rank(), 2);
  CHECK_GE(args.rows.extent(0), 1);
  CHECK(args.rows.is_contiguous()) << "ReduceRows.rows is strided";
  CheckTensor(stream, "ReduceRows.rows", args.rows, {args.rows.extent(0), args.y.num_elements()},
              dtype);
  CheckTensor(stream, "ReduceRows.y", args.y, {args.y.num_elements()}, dtype);
  RUN_OP(stream, ReduceRows, args);
}

}  // namespace sluice::kernels
