#include "trainer/model/swiglu.h"

#include "kernels/ops/swiglu.h"
#include "kernels/ops/swiglu_quantize.h"

namespace sluice::trainer {
namespace {

// A null view where nobody reads values.
TensorView NewValues(const Context& context, bool has_codes, SlotId slot, const Shape& shape) {
  const bool are_read = !has_codes || context.health != nullptr;
  return are_read ? context.tape.New(slot, context.dtype, shape) : TensorView();
}

}  // namespace

void ApplySwiglu(const Context& context, ConstTensorView gate_up, const Linear& down, SlotId y) {
  const int64_t rows = gate_up.extent(0), width = gate_up.extent(1) / 2;
  const bool quantizes = down.keeps_input();
  const TensorView values = NewValues(context, quantizes, y, {rows, width});
  if (!quantizes) return kernels::Swiglu(context.stream, {.gate_up = gate_up, .y = values});
  kernels::SwigluQuantize(context.stream, {.gate_up = gate_up,
                                           .y = values,
                                           .rows = down.NewInput(context, rows),
                                           .options = down.fp8_options()->activations});
}

void ApplySwigluGradient(const Context& context, ConstTensorView dy, ConstTensorView gate_up,
                         const Linear& layer, ConstTensorView offsets, SlotId dgate_up) {
  const TensorView values = NewValues(context, layer.fp8(), dgate_up, gate_up.shape());
  if (!layer.fp8()) {
    return kernels::SwigluBackward(context.stream,
                                   {.dy = dy, .gate_up = gate_up, .dgate_up = values});
  }
  // The op cuts gate and up each from its own first column, as a weight of both is cut.
  CHECK(layer.quantized().equal_parts == 2 || dy.extent(1) % kernels::kQuantTile == 0)
      << "gate and up of " << dy.extent(1) << " columns are cut otherwise";
  const kernels::QuantizeArgs to = layer.NewGradient(context, gate_up.extent(0), offsets);
  kernels::SwigluBackwardQuantize(context.stream, {.dy = dy,
                                                   .gate_up = gate_up,
                                                   .dgate_up = values,
                                                   .rows = to.rows,
                                                   .columns = to.columns,
                                                   .offsets = to.offsets,
                                                   .options = to.options});
}

}  // namespace sluice::trainer
