#include "trainer/model/mlp.h"

#include "kernels/ops/swiglu.h"

namespace sluice::trainer {

Parameter FusedGateUp(const std::string& prefix, int64_t hidden, int64_t width) {
  Parameter parameter;
  parameter.shape = {2 * width, hidden};
  parameter.pieces = {
      {prefix + "gate_proj.weight", {width, hidden}, 0, 0, width * hidden},
      {prefix + "up_proj.weight", {width, hidden}, 0, width * hidden, width * hidden}};
  return parameter;
}

Mlp::Mlp(const std::string& prefix, int64_t hidden, int64_t width, const Recompute& recompute,
         ParameterStore& store, TapeLayout& layout)
    : width_(width),
      recompute_(recompute.swiglu),
      gate_up_(store.Add(FusedGateUp(prefix, hidden, width)), layout),
      down_(store.AddTensor(prefix + "down_proj.weight", {hidden, width}), layout),
      gate_up_cache_(layout),
      gate_up_slot_(layout.NewSlot()),
      activated_(layout.NewSlot()),
      d_gate_up_(layout.NewSlot()) {}

void Mlp::Forward(const Context& context, ConstTensorView x, TensorView y) {
  TensorView gate_up = context.NewRows(gate_up_slot_, 2 * width_);
  TensorView activated = context.NewRows(activated_, width_);
  gate_up_.Forward(context, x, gate_up);
  kernels::Swiglu(context.stream, {.gate_up = gate_up, .y = activated});
  down_.Forward(context, activated, y);
  if (recompute_) down_.FreeInput(context);
  if (recompute_ || down_.keeps_input()) context.tape.Free(activated_);
  if (context.training && gate_up_.caches_output()) {
    gate_up_cache_.Shrink(context, gate_up_slot_, gate_up_.quantized().row_tiles,
                          gate_up_.fp8_options()->activations);
  }
}

void Mlp::BackwardInput(const Context& context, ConstTensorView dy, TensorView dx) {
  Tape& tape = context.tape;
  gate_up_cache_.Restore(context, gate_up_slot_, gate_up_.quantized().row_tiles);
  if (recompute_) {
    kernels::Swiglu(context.stream,
                    {.gate_up = tape.Get(gate_up_slot_), .y = context.NewRows(activated_, width_)});
    if (down_.keeps_input()) {
      down_.KeepInput(context, tape.Get(activated_));
      tape.Free(activated_);
    }
  }
  Temporary d_activated(context.pool, context.dtype, {context.batch.num_tokens(), width_});
  down_.BackwardInput(context, dy, d_activated.view());
  TensorView d_gate_up = context.NewRows(d_gate_up_, 2 * width_);
  kernels::SwigluBackward(
      context.stream,
      {.dy = d_activated.view(), .gate_up = tape.Get(gate_up_slot_), .dgate_up = d_gate_up});
  tape.Free(gate_up_slot_);
  gate_up_.BackwardInput(context, d_gate_up, dx);
  if (gate_up_.fp8()) tape.Free(d_gate_up_);
}

void Mlp::BackwardWeight(const Context& context, ConstTensorView x, ConstTensorView dy) {
  Tape& tape = context.tape;
  down_.BackwardWeight(context, dy, tape.Find(activated_));
  gate_up_.BackwardWeight(context, tape.Find(d_gate_up_), x);
  tape.Free(activated_);
  tape.Free(d_gate_up_);
}

void Mlp::ForEachLinear(const LinearVisitor& visit) {
  visit(gate_up_);
  visit(down_);
}

}  // namespace sluice::trainer
