#include "trainer/model/mlp.h"

#include "trainer/model/swiglu.h"

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
  gate_up_.Forward(context, x, gate_up);
  ApplySwiglu(context, gate_up, down_, activated_);
  down_.Forward(context, context.tape.Find(activated_), y);
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
    ApplySwiglu(context, tape.Get(gate_up_slot_), down_, activated_);
    if (down_.keeps_input()) tape.Free(activated_);
  }
  {
    Temporary d_activated(context.pool, context.dtype, {context.batch.num_tokens(), width_});
    down_.BackwardInput(context, dy, d_activated.view());
    ApplySwigluGradient(context, d_activated.view(), tape.Get(gate_up_slot_), gate_up_, {},
                        d_gate_up_);
  }
  tape.Free(gate_up_slot_);
  gate_up_.BackwardInput(context, tape.Find(d_gate_up_), dx);
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
