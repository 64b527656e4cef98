// What an FP8 health report sees of a layer: statistics of its operands and the BF16 twins of its
// products. Runs in the steps that report only.
#include "kernels/ops/compare.h"
#include "trainer/model/fp8_health.h"
#include "trainer/model/linear.h"

namespace sluice::trainer {

void Linear::Observe(const Context& context, const Observation& seen) const {
  Fp8LayerHealth& layer = context.health->LayerOf(*weight_);
  const ConstTensorView tiles = seen.forward ? ConstTensorView() : quantized_.row_tiles;
  // Rows that arrived as codes have no BF16 twin: their values are the operand.
  Temporary values(context.pool, dtype_, seen.codes.codes.shape());
  ConstTensorView operand = seen.operand;
  if (operand.is_null()) {
    kernels::DequantizeRows(context.stream,
                            {.rows = seen.codes, .tiles = tiles, .y = values.view()});
    operand = values.view();
  }
  kernels::AddQuantizationStats(context.stream, {.x = operand,
                                                 .rows = seen.codes,
                                                 .tiles = tiles,
                                                 .stats = seen.forward ? &layer.x : &layer.dy});
  const int64_t k = seen.forward ? in() : out(), n = seen.forward ? out() : in();
  const auto bytes = static_cast<int64_t>(kernels::PackedBytes(experts(), k, n, dtype_));
  Temporary storage(context.pool, DType::kU8, {bytes});
  const kernels::PackedMatrix packed = {experts(), k, n, dtype_, storage.view()};
  kernels::PackMatrix(context.stream,
                      {.b = weight_->value, .transpose = seen.forward, .packed = packed});
  Temporary twin(context.pool, dtype_, {operand.extent(0), n});
  if (seen.offsets.is_null()) {
    kernels::PackedMatmul(context.stream, {.a = operand, .b = packed, .c = twin.view()});
  } else {
    kernels::GroupedMatmul(context.stream,
                           {.x = operand, .w = packed, .offsets = seen.offsets, .y = twin.view()});
  }
  kernels::AddSquaredDifference(context.stream,
                                {.a = seen.result,
                                 .b = twin.view(),
                                 .difference = seen.forward ? &layer.y_error : &layer.dx_error,
                                 .norm = seen.forward ? &layer.y_norm : &layer.dx_norm});
}

}  // namespace sluice::trainer
