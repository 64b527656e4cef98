#include "kernels/ops/e5m6.h"

#include "kernels/cpu/e5m6.h"
#include "kernels/ops/check_arguments.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {
namespace {

void Check(const Stream& stream, const E5m6RowsArgs& args) {
  CHECK_EQ(args.x.shape().rank(), 2);
  const int64_t rows = args.x.extent(0), columns = args.x.extent(1);
  CHECK_EQ(columns % 2, 0) << "codes are packed in pairs";
  CheckTensor(stream, "x", args.x, args.x.shape(), CheckFloat("x", args.x));
  CheckTensor(stream, "packed", args.packed, {rows, E5m6RowBytes(columns)}, DType::kU8);
}

}  // namespace

void PackE5m6Rows(Stream& stream, const E5m6RowsArgs& args) {
  Check(stream, args);
  RUN_OP(stream, PackE5m6Rows, args);
}

void UnpackE5m6Rows(Stream& stream, const E5m6RowsArgs& args) {
  Check(stream, args);
  RUN_OP(stream, UnpackE5m6Rows, args);
}

}  // namespace sluice::kernels
