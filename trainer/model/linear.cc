#include "trainer/model/linear.h"

#include <utility>

#include "kernels/core/status_macros.h"
#include "kernels/ops/dequantized_matmul.h"
#include "trainer/model/lora.h"

namespace sluice::trainer {

using kernels::Fp8Direction;
using kernels::NumColumnTiles;
using kernels::NumTiles;
using kernels::QuantizedColumns;
using kernels::QuantizedRows;

Linear::Linear(Parameter& weight) : weight_(&weight) {}
Linear::~Linear() = default;
Linear::Linear(Linear&&) noexcept = default;

void Linear::set_adapter(std::unique_ptr<LowRankAdapter> adapter) { adapter_ = std::move(adapter); }

Linear::Linear(Parameter& weight, TapeLayout& layout, Keeps keeps)
    : weight_(&weight), keeps_(keeps), may_be_fp8_(true) {
  for (SlotId* slot : {&x_codes_, &x_scales_, &dy_codes_, &dy_scales_, &dy_row_codes_,
                       &dy_row_scales_, &x_sample_, &dy_sample_}) {
    *slot = layout.NewSlot();
  }
}

void Linear::ShareInputOf(const Linear& owner) {
  x_codes_ = owner.x_codes_;
  x_scales_ = owner.x_scales_;
  owns_input_ = false;
}

absl::Status Linear::Allocate(kernels::DeviceContext& device, DType dtype, const Fp8Options* fp8) {
  if (adapter_ != nullptr) RETURN_IF_ERROR(adapter_->Allocate(device, dtype));
  dtype_ = dtype;
  if (weight_->is_quantized()) return ReadKept(device);
  fp8_ = may_be_fp8_ ? fp8 : nullptr;
  return this->fp8() ? AllocateQuantized(device) : AllocatePacked(device);
}

absl::Status Linear::AllocatePacked(kernels::DeviceContext& device) {
  const size_t forward_bytes = kernels::PackedBytes(experts(), in(), out(), dtype_);
  const size_t backward_bytes = kernels::PackedBytes(experts(), out(), in(), dtype_);
  ASSIGN_OR_RETURN(forward_storage_,
                   device.Allocate(forward_bytes, kernels::MemoryTag::kParameters));
  ASSIGN_OR_RETURN(backward_storage_,
                   device.Allocate(backward_bytes, kernels::MemoryTag::kParameters));
  const auto flat = [](const kernels::Buffer& storage, size_t bytes) {
    return storage.View(DType::kU8, {static_cast<int64_t>(bytes)});
  };
  forward_ = {experts(), in(), out(), dtype_, flat(forward_storage_, forward_bytes)};
  backward_ = {experts(), out(), in(), dtype_, flat(backward_storage_, backward_bytes)};
  return absl::OkStatus();
}

// The codes and scales lie in the store; the row tiles come here.
absl::Status Linear::ReadKept(kernels::DeviceContext& device) {
  const std::vector<int32_t> bounds = RowTiles(*weight_);
  const auto count = static_cast<int64_t>(bounds.size());
  ASSIGN_OR_RETURN(quantized_storage_, device.Allocate(static_cast<size_t>(count) * 4,
                                                       kernels::MemoryTag::kParameters));
  const TensorView row_tiles = quantized_storage_.View(DType::kI32, {count});
  quantized_ = {.codes = weight_->value.Reshape({experts(), out(), in()}),
                .scales = weight_->scales->value,
                .row_tiles = row_tiles};
  Stream& stream = device.stream(kernels::StreamRole::kCompute);
  device.Copy(ConstTensorView(bounds.data(), DType::kI32, row_tiles.shape()), row_tiles, stream);
  return stream.Synchronize();
}

namespace {

// Of a tensor [rows, width] whose codes the device may want transposed.
Shape ShapeOfColumnCodes(const Context& context, int64_t rows, int64_t width, int64_t groups) {
  if (!kernels::ReadsTransposedColumns(context.stream)) return {rows, width};
  return {width, kernels::NumColumnCodes(rows, groups)};
}

}  // namespace

// Codes, then scales (aligned, as every width is a multiple of 16), then the row tiles, unless they
// are the default.
absl::Status Linear::AllocateQuantized(kernels::DeviceContext& device) {
  const std::vector<int32_t> bounds = RowTiles(*weight_);
  const int64_t row_tiles = static_cast<int64_t>(bounds.size()) - 1, tiles = NumTiles(in());
  const int64_t codes = experts() * out() * in(), scales = experts() * row_tiles * tiles;
  const int64_t aligned = (codes + 63) / 64 * 64;
  const int64_t bytes = 2 * aligned + 2 * scales * 4 + (row_tiles + 1) * 4;
  ASSIGN_OR_RETURN(quantized_storage_,
                   device.Allocate(static_cast<size_t>(bytes), kernels::MemoryTag::kParameters));
  const kernels::Buffer& s = quantized_storage_;
  quantized_.codes = s.View(DType::kE4M3, {experts(), out(), in()});
  quantized_.transposed_codes = s.View(DType::kE4M3, {experts(), in(), out()}, aligned);
  quantized_.scales = s.View(DType::kF32, {experts(), row_tiles, tiles}, 2 * aligned);
  quantized_.transposed_scales =
      s.View(DType::kF32, {experts(), tiles, row_tiles}, 2 * aligned + scales * 4);
  const int64_t parts = EqualParts(bounds);
  if (parts == 1) return absl::OkStatus();
  quantized_.equal_parts = parts;
  const TensorView on_device = s.View(DType::kI32, {row_tiles + 1}, 2 * aligned + scales * 8);
  quantized_.row_tiles = on_device;
  Stream& stream = device.stream(kernels::StreamRole::kCompute);
  device.Copy(ConstTensorView(bounds.data(), DType::kI32, on_device.shape()), on_device, stream);
  return stream.Synchronize();
}

void Linear::Repack(Stream& stream) {
  if (fp8()) {
    kernels::QuantizeWeight(stream, {.w = weight_->value.Reshape({experts(), out(), in()}),
                                     .weight = quantized_,
                                     .options = fp8_->activations});
    return;
  }
  if (!weight_->is_quantized()) {
    kernels::PackMatrix(stream, {.b = weight_->value, .transpose = true, .packed = forward_});
    kernels::PackMatrix(stream, {.b = weight_->value, .transpose = false, .packed = backward_});
  }
  if (adapter_ != nullptr) adapter_->Repack(stream);
}

void Linear::RepackTrained(Stream& stream) {
  if (!weight_->is_frozen()) return Repack(stream);
  if (adapter_ != nullptr) adapter_->Repack(stream);
}

absl::Status Linear::Demote(kernels::DeviceContext& device) {
  if (!fp8()) return absl::OkStatus();
  fp8_ = nullptr;
  quantized_ = {};
  quantized_storage_ = kernels::Buffer();
  RETURN_IF_ERROR(AllocatePacked(device));
  Repack(device.stream(kernels::StreamRole::kCompute));
  return absl::OkStatus();
}

QuantizedRows Linear::NewInput(const Context& context, int64_t rows) const {
  return {context.tape.New(x_codes_, DType::kE4M3, {rows, in()}),
          context.tape.New(x_scales_, DType::kF32, {rows, NumTiles(in())})};
}

QuantizedRows Linear::Input(const Context& context) const {
  return {context.tape.Get(x_codes_), context.tape.Get(x_scales_)};
}

// Quantises x, unless its codes are there already.
void Linear::KeepInput(const Context& context, ConstTensorView x) const {
  if (context.tape.Has(x_codes_)) return;
  kernels::Quantize(context.stream,
                    {.x = x, .rows = NewInput(context, x.extent(0)), .options = fp8_->activations});
}

void Linear::FreeInput(const Context& context) const {
  if (!fp8()) return;
  context.tape.Free(x_codes_);
  context.tape.Free(x_scales_);
}

void Linear::Fp8Forward(const Context& context, ConstTensorView x, ConstTensorView offsets,
                        TensorView y) const {
  KeepInput(context, x);
  kernels::Fp8Matmul(context.stream, {.a = Input(context),
                                      .w = quantized_,
                                      .direction = Fp8Direction::kForward,
                                      .offsets = offsets,
                                      .c = y});
  if (context.health != nullptr) Observe(context, {true, x, Input(context), offsets, y});
  if (keeps_ == Keeps::kNothing) FreeInput(context);
}

kernels::QuantizeArgs Linear::NewGradient(const Context& context, int64_t rows,
                                          ConstTensorView offsets) const {
  Tape& tape = context.tape;
  kernels::QuantizeArgs to;
  to.columns = {
      tape.New(dy_codes_, DType::kE4M3, ShapeOfColumnCodes(context, rows, out(), experts())),
      tape.New(dy_scales_, DType::kF32, {NumColumnTiles(rows, experts()), out()}),
      kernels::ReadsTransposedColumns(context.stream)};
  to.rows = {tape.New(dy_row_codes_, DType::kE4M3, {rows, out()}),
             tape.New(dy_row_scales_, DType::kF32, {rows, quantized_.scales.extent(1)})};
  to.tiles = quantized_.row_tiles;
  to.offsets = offsets;
  to.options = fp8_->gradients;
  return to;
}

void Linear::Fp8BackwardInput(const Context& context, ConstTensorView dy, ConstTensorView offsets,
                              TensorView dx) const {
  Tape& tape = context.tape;
  if (!tape.Has(dy_row_codes_)) {
    kernels::QuantizeArgs args = NewGradient(context, dy.extent(0), offsets);
    args.x = dy;
    kernels::Quantize(context.stream, args);
  }
  const QuantizedRows along_rows = {tape.Get(dy_row_codes_), tape.Get(dy_row_scales_)};
  kernels::Fp8Matmul(context.stream, {.a = along_rows,
                                      .w = quantized_,
                                      .direction = Fp8Direction::kBackward,
                                      .offsets = offsets,
                                      .c = dx});
  if (context.health != nullptr) Observe(context, {false, dy, along_rows, offsets, dx});
  tape.Free(dy_row_codes_);
  tape.Free(dy_row_scales_);
}

void Linear::Fp8BackwardWeight(const Context& context, ConstTensorView x,
                               ConstTensorView offsets) const {
  Tape& tape = context.tape;
  const int64_t rows = keeps_ == Keeps::kInput ? Input(context).codes.extent(0) : x.extent(0);
  const bool transposed = kernels::ReadsTransposedColumns(context.stream);
  Temporary codes(context.pool, DType::kE4M3, ShapeOfColumnCodes(context, rows, in(), experts()));
  Temporary scales(context.pool, DType::kF32, {NumColumnTiles(rows, experts()), in()});
  const QuantizedColumns columns = {codes.view(), scales.view(), transposed};
  if (keeps_ == Keeps::kInput) {
    kernels::RequantizeColumns(context.stream, {.rows = Input(context),
                                                .offsets = offsets,
                                                .columns = columns,
                                                .options = fp8_->activations});
  } else {
    kernels::Quantize(
        context.stream,
        {.x = x, .columns = columns, .offsets = offsets, .options = fp8_->activations});
  }
  const QuantizedColumns dy = {tape.Get(dy_codes_), tape.Get(dy_scales_), transposed};
  kernels::Fp8WeightGradient(context.stream,
                             {.dy = dy,
                              .x = columns,
                              .offsets = offsets,
                              .dw = weight_->gradient.Reshape({experts(), out(), in()})});
  if (context.health != nullptr) ObserveWeightGradient(context, dy, columns, offsets);
  tape.Free(dy_codes_);
  tape.Free(dy_scales_);
  if (owns_input_) FreeInput(context);
}

void Linear::Multiply(const Context& context, Fp8Direction direction, ConstTensorView a,
                      ConstTensorView offsets, TensorView c) const {
  const kernels::PackedMatrix& packed = direction == Fp8Direction::kForward ? forward_ : backward_;
  if (weight_->is_quantized()) {
    kernels::DequantizedMatmul(
        context.stream,
        {.a = a, .w = quantized_, .direction = direction, .offsets = offsets, .c = c});
  } else if (offsets.is_null()) {
    kernels::PackedMatmul(context.stream, {.a = a, .b = packed, .c = c});
  } else {
    kernels::GroupedMatmul(context.stream, {.x = a, .w = packed, .offsets = offsets, .y = c});
  }
}

void Linear::Forward(const Context& context, ConstTensorView x, TensorView y) const {
  if (fp8()) return Fp8Forward(context, x, {}, y);
  Multiply(context, Fp8Direction::kForward, x, {}, y);
  if (adapter_ != nullptr) adapter_->Forward(context, x, ConstTensorView(), y);
}

void Linear::BackwardInput(const Context& context, ConstTensorView dy, TensorView dx) const {
  if (fp8()) return Fp8BackwardInput(context, dy, {}, dx);
  Multiply(context, Fp8Direction::kBackward, dy, {}, dx);
  if (adapter_ != nullptr) adapter_->BackwardInput(context, dy, ConstTensorView(), dx);
}

void Linear::BackwardWeight(const Context& context, ConstTensorView dy, ConstTensorView x) const {
  if (fp8()) return Fp8BackwardWeight(context, x, {});
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
  if (fp8()) return Fp8Forward(context, x, offsets, y);
  Multiply(context, Fp8Direction::kForward, x, offsets, y);
  if (adapter_ != nullptr) adapter_->Forward(context, x, offsets, y);
}

void Linear::GroupedBackwardInput(const Context& context, ConstTensorView dy,
                                  ConstTensorView offsets, TensorView dx) const {
  if (fp8()) return Fp8BackwardInput(context, dy, offsets, dx);
  Multiply(context, Fp8Direction::kBackward, dy, offsets, dx);
  if (adapter_ != nullptr) adapter_->BackwardInput(context, dy, offsets, dx);
}

void Linear::GroupedBackwardWeight(const Context& context, ConstTensorView dy, ConstTensorView x,
                                   ConstTensorView offsets) const {
  if (fp8()) return Fp8BackwardWeight(context, x, offsets);
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
