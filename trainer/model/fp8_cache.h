// A BF16 tensor of the tape that waits for its backward in FP8, in 1 x 128 tiles.
#pragma once

#include "kernels/ops/block_quantize.h"
#include "trainer/model/context.h"

namespace sluice::trainer {

class Fp8Cache {
 public:
  explicit Fp8Cache(TapeLayout& layout) : codes_(layout.NewSlot()), scales_(layout.NewSlot()) {}

  // The tensor [R, C] in `slot` leaves the tape, its codes stay. `tiles` as in block_quantize.h.
  void Shrink(const Context& context, SlotId slot, ConstTensorView tiles,
              const kernels::QuantizeOptions& options) const {
    const TensorView x = context.tape.Get(slot);
    const int64_t num_tiles =
        tiles.is_null() ? kernels::NumTiles(x.extent(1)) : tiles.extent(0) - 1;
    const kernels::QuantizedRows rows = {
        context.tape.New(codes_, DType::kE4M3, x.shape()),
        context.tape.New(scales_, DType::kF32, {x.extent(0), num_tiles})};
    kernels::Quantize(context.stream, {.x = x, .rows = rows, .tiles = tiles, .options = options});
    context.tape.Free(slot);
  }
  // Its values are in `slot` again, rounded to the dtype of activations. Nothing where Shrink was
  // not called.
  void Restore(const Context& context, SlotId slot, ConstTensorView tiles) const {
    Tape& tape = context.tape;
    if (!tape.Has(codes_)) return;
    const kernels::QuantizedRows rows = {tape.Get(codes_), tape.Get(scales_)};
    kernels::DequantizeRows(
        context.stream,
        {.rows = rows, .tiles = tiles, .y = tape.New(slot, context.dtype, rows.codes.shape())});
    tape.Free(codes_);
    tape.Free(scales_);
  }

 private:
  SlotId codes_, scales_;
};

}  // namespace sluice::trainer
