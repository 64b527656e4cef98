#include "trainer/model/linear.h"

#include <utility>

#include "kernels/core/status_macros.h"
#include "trainer/model/lora.h"

namespace sluice::trainer {

Linear::Linear(Parameter& weight) : weight_(&weight) {}
Linear::~Linear() = default;
Linear::Linear(Linear&&) noexcept = default;

void Linear::set_adapter(std::unique_ptr<LowRankAdapter> adapter) { adapter_ = std::move(adapter); }

absl::Status Linear::Allocate(kernels::DeviceContext& device, DType dtype) {
  if (adapter_ != nullptr) RETURN_IF_ERROR(adapter_->Allocate(device, dtype));
  const Shape& shape = weight_->shape;
  const bool grouped = shape.rank() == 3;
  const int64_t experts = grouped ? shape[0] : 1;
  const int64_t out = shape[grouped ? 1 : 0], in = shape[grouped ? 2 : 1];
  const size_t forward_bytes = kernels::PackedBytes(experts, in, out, dtype);
  const size_t backward_bytes = kernels::PackedBytes(experts, out, in, dtype);
  ASSIGN_OR_RETURN(forward_storage_,
                   device.Allocate(forward_bytes, kernels::MemoryTag::kParameters));
  ASSIGN_OR_RETURN(backward_storage_,
                   device.Allocate(backward_bytes, kernels::MemoryTag::kParameters));
  const auto flat = [](const kernels::Buffer& storage, size_t bytes) {
    return storage.View(DType::kU8, {static_cast<int64_t>(bytes)});
  };
  forward_ = {experts, in, out, dtype, flat(forward_storage_, forward_bytes)};
  backward_ = {experts, out, in, dtype, flat(backward_storage_, backward_bytes)};
  return absl::OkStatus();
}

void Linear::Repack(Stream& stream) {
  kernels::PackMatrix(stream, {.b = weight_->value, .transpose = true, .packed = forward_});
  kernels::PackMatrix(stream, {.b = weight_->value, .transpose = false, .packed = backward_});
  if (adapter_ != nullptr) adapter_->Repack(stream);
}

void Linear::RepackTrained(Stream& stream) {
  if (!weight_->is_frozen()) return Repack(stream);
  if (adapter_ != nullptr) adapter_->Repack(stream);
}

void Linear::Forward(const Context& context, ConstTensorView x, TensorView y) const {
  kernels::PackedMatmul(context.stream, {.a = x, .b = forward_, .c = y});
  if (adapter_ != nullptr) adapter_->Forward(context, x, ConstTensorView(), y);
}

void Linear::BackwardInput(const Context& context, ConstTensorView dy, TensorView dx) const {
  kernels::PackedMatmul(context.stream, {.a = dy, .b = backward_, .c = dx});
  if (adapter_ != nullptr) adapter_->BackwardInput(context, dy, ConstTensorView(), dx);
}

void Linear::BackwardWeight(const Context& context, ConstTensorView dy, ConstTensorView x) const {
  for (const TrainedRows& rows : weight_->trained_rows) {
    kernels::Matmul(context.stream, {.a = dy.Columns(rows.first, rows.count),
                                     .b = x,
                                     .c = rows.gradient,
                                     .transpose_a = true,
                                     .accumulate = true});
  }
  if (adapter_ != nullptr) adapter_->BackwardWeight(context, dy, x, ConstTensorView());
}

void Linear::GroupedForward(const Context& context, ConstTensorView x, ConstTensorView offsets,
                            TensorView y) const {
  kernels::GroupedMatmul(context.stream, {.x = x, .w = forward_, .offsets = offsets, .y = y});
  if (adapter_ != nullptr) adapter_->Forward(context, x, offsets, y);
}

void Linear::GroupedBackwardInput(const Context& context, ConstTensorView dy,
                                  ConstTensorView offsets, TensorView dx) const {
  kernels::GroupedMatmul(context.stream, {.x = dy, .w = backward_, .offsets = offsets, .y = dx});
  if (adapter_ != nullptr) adapter_->BackwardInput(context, dy, offsets, dx);
}

void Linear::GroupedBackwardWeight(const Context& context, ConstTensorView dy, ConstTensorView x,
                                   ConstTensorView offsets) const {
  for (const TrainedRows& experts : weight_->trained_rows) {
    kernels::GroupedWeightGradient(context.stream,
                                   {.dy = dy,
                                    .x = x,
                                    .offsets = offsets.Rows(experts.first, experts.count + 1),
                                    .dw = experts.gradient});
  }
  if (adapter_ != nullptr) adapter_->BackwardWeight(context, dy, x, offsets);
}

}  // namespace sluice::trainer
