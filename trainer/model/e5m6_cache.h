// A BF16 tensor of the tape that waits for its backward in E5M6, at three quarters of the bytes.
#pragma once

#include "kernels/ops/e5m6.h"
#include "trainer/model/context.h"

namespace sluice::trainer {

class E5m6Cache {
 public:
  explicit E5m6Cache(TapeLayout& layout) : packed_(layout.NewSlot()) {}

  // The tensor [R, C] in `slot` leaves the tape, its codes stay.
  void Shrink(const Context& context, SlotId slot) const {
    const TensorView x = context.tape.Get(slot);
    const TensorView packed =
        context.tape.New(packed_, DType::kU8, {x.extent(0), kernels::E5m6RowBytes(x.extent(1))});
    kernels::PackE5m6Rows(context.stream, {.x = x, .packed = packed});
    context.tape.Free(slot);
  }
  // Where Shrink was called, `slot` holds the values [R, columns] again until Drop; the codes stay.
  void Restore(const Context& context, SlotId slot, int64_t columns) const {
    if (!context.tape.Has(packed_)) return;
    kernels::UnpackE5m6Rows(
        context.stream, {.x = context.NewRows(slot, columns), .packed = context.tape.Get(packed_)});
  }
  void Drop(const Context& context, SlotId slot) const {
    if (context.tape.Has(packed_)) context.tape.Free(slot);
  }
  void Free(const Context& context) const { context.tape.Free(packed_); }

 private:
  SlotId packed_;
};

}  // namespace sluice::trainer
