// What an FP8 health report sees of a layer: statistics of its operands and the BF16 twins of its
// products. Runs in the steps that report only.
#include <algorithm>

#include "kernels/ops/cast.h"
#include "kernels/ops/compare.h"
#include "trainer/model/fp8_health.h"
#include "trainer/model/linear.h"

namespace sluice::trainer {

// Keeps a sample of an operand's BF16 values for the shadow of the weight gradient.
void Linear::KeepSample(const Context& context, SlotId slot, ConstTensorView operand) const {
  const int64_t rows = operand.extent(0), columns = std::min(operand.extent(1), kSampledColumns);
  kernels::Sample(context.stream,
                  {.x = operand, .y = context.tape.New(slot, operand.dtype(), {rows, columns})});
}

void Linear::Observe(const Context& context, const Observation& seen) const {
  const SlotId sample = seen.forward ? x_sample_ : dy_sample_;
  if (context.tape.Has(sample)) return;  // seen; recomputed since
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
  if (seen.forward) {
    kernels::AddWeightStats(context.stream, {.w = weight_->value.Reshape({experts(), out(), in()}),
                                             .weight = quantized_,
                                             .stats = &layer.w});
  }
  KeepSample(context, sample, operand);
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
  ShadowProduct& product = seen.forward ? layer.y : layer.dx;
  kernels::AddSquaredDifference(context.stream, {.a = seen.result,
                                                 .b = twin.view(),
                                                 .difference = &product.difference,
                                                 .norm = &product.norm});
}

namespace {

// Columns of an operand that was quantised along the tokens, as KeepSample takes them.
class SampledOperand {
 public:
  SampledOperand(const Context& context, const kernels::QuantizedColumns& all, int64_t columns)
      : codes_(context.pool, DType::kE4M3,
               all.transposed ? Shape{columns, all.codes.extent(1)}
                              : Shape{all.codes.extent(0), columns}),
        scales_(context.pool, DType::kF32, {all.scales.extent(0), columns}),
        transposed_(all.transposed) {
    kernels::Sample(context.stream, {.x = all.codes, .y = codes_.view()});
    kernels::Sample(context.stream, {.x = all.scales, .y = scales_.view()});
  }
  kernels::QuantizedColumns view() const { return {codes_.view(), scales_.view(), transposed_}; }

 private:
  Temporary codes_, scales_;
  bool transposed_;
};

}  // namespace

// An element of dW depends on its own columns of dy and x alone, so those that are sampled are the
// gradient's own. (What it adds to may hold other microbatches; so it is computed again.)
void Linear::ObserveWeightGradient(const Context& context, const kernels::QuantizedColumns& dy,
                                   const kernels::QuantizedColumns& x,
                                   ConstTensorView offsets) const {
  const ConstTensorView x_values = context.tape.Get(x_sample_);
  const ConstTensorView dy_values = context.tape.Get(dy_sample_);
  const int64_t rows = dy_values.extent(1), columns = x_values.extent(1);
  const SampledOperand dy_codes(context, dy, rows), x_codes(context, x, columns);
  const kernels::Shape shape = {experts(), rows, columns};
  Temporary found(context.pool, DType::kF32, shape), twin(context.pool, DType::kF32, shape);
  kernels::Fill(context.stream, found.view(), 0);
  kernels::Fill(context.stream, twin.view(), 0);
  kernels::Fp8WeightGradient(
      context.stream,
      {.dy = dy_codes.view(), .x = x_codes.view(), .offsets = offsets, .dw = found.view()});
  const kernels::Shape flat = {experts() * rows, columns};
  if (offsets.is_null()) {
    kernels::Matmul(context.stream, {.a = dy_values,
                                     .b = x_values,
                                     .c = twin.view().Reshape(flat),
                                     .transpose_a = true,
                                     .accumulate = true});
  } else {
    kernels::GroupedWeightGradient(
        context.stream, {.dy = dy_values, .x = x_values, .offsets = offsets, .dw = twin.view()});
  }
  ShadowProduct& product = context.health->LayerOf(*weight_).dw;
  kernels::AddSquaredDifference(context.stream, {.a = found.view().Reshape(flat),
                                                 .b = twin.view().Reshape(flat),
                                                 .difference = &product.difference,
                                                 .norm = &product.norm});
  context.tape.Free(x_sample_);
  context.tape.Free(dy_sample_);
}

}  // namespace sluice::trainer
