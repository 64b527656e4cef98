// What an FP8 health report sees of a layer: statistics of its operands and the BF16 twins of its
// products. Runs in the steps that report only.
#include "kernels/ops/compare.h"
#include "trainer/model/fp8_health.h"
#include "trainer/model/linear.h"

namespace sluice::trainer {

// Row by row: the rows of a block share their scales. (Reports are of the host's memory.)
void Linear::ObserveWeight(const Context& context, kernels::QuantizationStats* stats) const {
  const kernels::QuantizedWeight& q = quantized_;
  const ConstTensorView& bounds = q.row_tiles;
  const int64_t width = in(), columns = q.scales.extent(2);
  const auto value_bytes = static_cast<int64_t>(SizeOf(weight_->value.dtype()));
  for (int64_t e = 0; e < experts(); ++e) {
    for (int64_t r = 0, tile = 0; r < out(); ++r) {
      const int64_t next =
          bounds.is_null() ? (tile + 1) * kernels::kQuantTile : bounds.data<int32_t>()[tile + 1];
      if (r == next) ++tile;
      const int64_t row = e * out() + r;
      const auto* values =
          static_cast<const char*>(weight_->value.raw_data()) + row * width * value_bytes;
      auto* codes = q.codes.mutable_data<kernels::E4M3>() + row * width;
      auto* scales = q.scales.mutable_data<float>() + (e * q.scales.extent(1) + tile) * columns;
      kernels::AddQuantizationStats(
          context.stream, {.x = ConstTensorView(values, weight_->value.dtype(), {1, width}),
                           .rows = {.codes = TensorView(codes, DType::kE4M3, {1, width}),
                                    .scales = TensorView(scales, DType::kF32, {1, columns})},
                           .stats = stats});
    }
  }
}

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
  if (seen.forward) ObserveWeight(context, &layer.w);
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
