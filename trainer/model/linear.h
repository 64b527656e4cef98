// A linear layer y = x W^T without bias.   T tokens, I in, O out
#pragma once

#include <memory>

#include "kernels/core/device.h"
#include "kernels/ops/matmul.h"
#include "trainer/model/context.h"
#include "trainer/model/parameters.h"

namespace sluice::trainer {

class LowRankAdapter;

// Holds its weight packed for both directions; Repack after the weight changed. With an adapter
// (lora.h) every call takes it along.
class Linear {
 public:
  explicit Linear(Parameter& weight);  // weight [O, I], or [E, O, I] for grouped use
  ~Linear();
  Linear(Linear&&) noexcept;

  // Before Allocate; null: none.
  void set_adapter(std::unique_ptr<LowRankAdapter> adapter);
  bool has_adapter() const { return adapter_ != nullptr; }

  // `dtype` is the operands' type (that of the values). Forward-only models skip the backward
  // packing.
  absl::Status Allocate(kernels::DeviceContext& device, DType dtype);
  void Repack(Stream& stream);
  // What an update changes: the weight unless it is frozen, the adapter.
  void RepackTrained(Stream& stream);

  // y [T, O] f32 or compute dtype = x [T, I] W^T
  void Forward(const Context& context, ConstTensorView x, TensorView y) const;
  // dx [T, I] = dy [T, O] W
  void BackwardInput(const Context& context, ConstTensorView dy, TensorView dx) const;
  // gradient += dy^T x, for the rows that are trained
  void BackwardWeight(const Context& context, ConstTensorView dy, ConstTensorView x) const;

  // The same for experts: rows of expert e in [offsets[e], offsets[e + 1]).
  void GroupedForward(const Context& context, ConstTensorView x, ConstTensorView offsets,
                      TensorView y) const;
  void GroupedBackwardInput(const Context& context, ConstTensorView dy, ConstTensorView offsets,
                            TensorView dx) const;
  void GroupedBackwardWeight(const Context& context, ConstTensorView dy, ConstTensorView x,
                             ConstTensorView offsets) const;

  const Parameter& weight() const { return *weight_; }
  const kernels::PackedMatrix& packed_forward() const { return forward_; }

 private:
  Parameter* weight_;
  kernels::Buffer forward_storage_, backward_storage_;
  kernels::PackedMatrix forward_, backward_;
  std::unique_ptr<LowRankAdapter> adapter_;
};

}  // namespace sluice::trainer
