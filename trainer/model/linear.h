// A linear layer y = x W^T without bias.   T tokens, I in, O out
#pragma once

#include <memory>

#include "kernels/core/device.h"
#include "kernels/ops/block_quantize.h"
#include "kernels/ops/fp8_matmul.h"
#include "kernels/ops/matmul.h"
#include "trainer/model/context.h"
#include "trainer/model/fp8.h"
#include "trainer/model/parameters.h"

namespace sluice::trainer {

class LowRankAdapter;

// Holds its weight for both directions, packed or quantised; Repack after the weight changed. With
// an adapter (lora.h) every call takes it along; then it is not in FP8. A weight that is kept as
// codes and scales (parameters.h) is read from there, and there is nothing to repack.
//
// In FP8 it also keeps, on the tape, what BackwardWeight will read: the codes of x from Forward on,
// the codes of dy along the tokens from BackwardInput on. Then the caller's x and dy may go (pass
// null views to BackwardWeight). In other precisions the caller keeps both. Codes that the caller
// made itself (NewInput, NewGradient) are taken as they are: x or dy is then read by health reports
// alone, and may be null.
class Linear {
 public:
  enum class Keeps : uint8_t { kInput, kNothing };  // kNothing: the caller keeps x in BF16 anyway

  // weight [O, I], or [E, O, I] for grouped use. Without a layout: never in FP8.
  explicit Linear(Parameter& weight);
  Linear(Parameter& weight, TapeLayout& layout, Keeps keeps = Keeps::kInput);
  ~Linear();
  Linear(Linear&&) noexcept;

  // Before Allocate; null: none.
  void set_adapter(std::unique_ptr<LowRankAdapter> adapter);
  bool has_adapter() const { return adapter_ != nullptr; }

  // Before any step. Reads the same x as `owner`: one set of codes, which goes with the owner's
  // BackwardWeight; that comes last.
  void ShareInputOf(const Linear& owner);

  // `dtype` is the type of the values; `fp8` null, or in FP8 if this layer may be.
  absl::Status Allocate(kernels::DeviceContext& device, DType dtype,
                        const Fp8Options* fp8 = nullptr);
  void Repack(Stream& stream);
  // What an update changes: the weight unless it is frozen, the adapter.
  void RepackTrained(Stream& stream);
  // From FP8 to the dtype of the values, for good. Between steps.
  absl::Status Demote(kernels::DeviceContext& device);

  bool fp8() const { return fp8_ != nullptr; }
  // For a gate and up projection: whether its output waits for backward in FP8.
  bool caches_output() const { return fp8() && fp8_->swiglu_cache; }
  // For o_proj: whether its input waits for backward in E5M6.
  bool caches_e5m6_input() const { return fp8() && fp8_->e5m6_attention; }
  bool keeps_input() const { return fp8() && keeps_ == Keeps::kInput; }

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

  // FP8: room on the tape for the codes of `rows` rows of x, for a caller that has them already.
  kernels::QuantizedRows NewInput(const Context& context, int64_t rows) const;
  void FreeInput(const Context& context) const;
  // FP8: room on the tape for the codes of `rows` rows of dy. Returned is what Quantize would be
  // told to make them of, but for x. `offsets` null: no experts.
  kernels::QuantizeArgs NewGradient(const Context& context, int64_t rows,
                                    ConstTensorView offsets) const;
  bool may_be_fp8() const { return may_be_fp8_; }
  const Fp8Options* fp8_options() const { return fp8_; }  // null: not in FP8

  const Parameter& weight() const { return *weight_; }
  Parameter& weight() { return *weight_; }
  const kernels::PackedMatrix& packed_forward() const { return forward_; }
  const kernels::QuantizedWeight& quantized() const { return quantized_; }

 private:
  // One product in FP8, for a health report.
  struct Observation {
    bool forward = true;      // of x; else of dy
    ConstTensorView operand;  // in BF16, or null where only its codes arrived
    kernels::QuantizedRows codes;
    ConstTensorView offsets;
    ConstTensorView result;
  };
  void Observe(const Context& context, const Observation& seen) const;
  void ObserveWeightGradient(const Context& context, const kernels::QuantizedColumns& dy,
                             const kernels::QuantizedColumns& x, ConstTensorView offsets) const;
  void KeepSample(const Context& context, SlotId slot, ConstTensorView operand) const;
  absl::Status AllocatePacked(kernels::DeviceContext& device);
  absl::Status ReadKept(kernels::DeviceContext& device);
  // c = a W^T or a W in the dtype of the values. `offsets` null: one expert.
  void Multiply(const Context& context, kernels::Fp8Direction direction, ConstTensorView a,
                ConstTensorView offsets, TensorView c) const;
  absl::Status AllocateQuantized(kernels::DeviceContext& device);
  int64_t experts() const { return weight_->shape.rank() == 3 ? weight_->shape[0] : 1; }
  int64_t out() const { return weight_->shape[weight_->shape.rank() - 2]; }
  int64_t in() const { return weight_->shape[weight_->shape.rank() - 1]; }
  void KeepInput(const Context& context, ConstTensorView x) const;
  kernels::QuantizedRows Input(const Context& context) const;
  void Fp8Forward(const Context& context, ConstTensorView x, ConstTensorView offsets,
                  TensorView y) const;
  void Fp8BackwardInput(const Context& context, ConstTensorView dy, ConstTensorView offsets,
                        TensorView dx) const;
  void Fp8BackwardWeight(const Context& context, ConstTensorView x, ConstTensorView offsets) const;

  Parameter* weight_;
  Keeps keeps_ = Keeps::kNothing;
  bool may_be_fp8_ = false, owns_input_ = true;
  DType dtype_ = DType::kF32;
  const Fp8Options* fp8_ = nullptr;
  kernels::Buffer forward_storage_, backward_storage_, quantized_storage_;
  kernels::PackedMatrix forward_, backward_;
  std::unique_ptr<LowRankAdapter> adapter_;
  kernels::QuantizedWeight quantized_;
  SlotId x_codes_ = -1, x_scales_ = -1;
  SlotId dy_codes_ = -1, dy_scales_ = -1;          // along the tokens, for BackwardWeight
  SlotId dy_row_codes_ = -1, dy_row_scales_ = -1;  // until the end of BackwardInput
  SlotId x_sample_ = -1, dy_sample_ = -1;          // in BF16, in steps that report
};

}  // namespace sluice::trainer
