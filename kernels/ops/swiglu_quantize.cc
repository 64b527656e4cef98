#include "kernels/ops/swiglu_quantize.h"

#include "kernels/cpu/swiglu_quantize.h"
#include "kernels/ops/check_arguments.h"
#include "kernels/ops/check_quantized.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {
namespace {

// What both ops make: values of this shape, perhaps, and their codes.
template <typename Args>
void CheckResults(const Stream& stream, const Args& args, const TensorView& values,
                  const Shape& shape, int64_t num_tiles) {
  if (values.shape().rank() != 0) CheckTensor(stream, "values", values, shape, DType::kBF16);
  const int64_t groups = CheckOffsets(stream, args.offsets);
  if (!args.rows.is_null()) CheckRows(stream, args.rows, shape, num_tiles);
  if (!args.columns.is_null()) CheckColumns(stream, args.columns, shape, groups);
}

}  // namespace

void SwigluQuantize(Stream& stream, const SwigluQuantizeArgs& args) {
  const Shape shape = args.gate_up.shape();
  CHECK(shape.rank() == 2 && shape[1] % 2 == 0) << shape;
  CheckTensor(stream, "SwigluQuantize.gate_up", args.gate_up, shape, DType::kBF16);
  const int64_t width = shape[1] / 2;
  CheckResults(stream, args, args.y, {shape[0], width}, NumTiles(width));
  RUN_OP(stream, SwigluQuantize, args);
}

void SwigluBackwardQuantize(Stream& stream, const SwigluBackwardQuantizeArgs& args) {
  const Shape shape = args.dy.shape();
  CHECK_EQ(shape.rank(), 2);
  const Shape wide = {shape[0], 2 * shape[1]};
  CheckTensor(stream, "SwigluBackwardQuantize.dy", args.dy, shape, DType::kBF16);
  CheckTensor(stream, "SwigluBackwardQuantize.gate_up", args.gate_up, wide, DType::kBF16);
  CheckResults(stream, args, args.dgate_up, wide, 2 * NumTiles(shape[1]));
  RUN_OP(stream, SwigluBackwardQuantize, args);
}

}  // namespace sluice::kernels
