// What one microbatch keeps on one stage between its forward and its backward. The price of a
// delayed BackwardWeight is what is still on the tape.
#pragma once

#include <vector>

#include "kernels/core/check.h"
#include "parallel/expert/token_exchange.h"
#include "trainer/model/activation_pool.h"

namespace sluice::trainer {

using SlotId = int;

// Modules take their slots from here when they are built; the layout is the same for every
// microbatch.
class TapeLayout {
 public:
  SlotId NewSlot() { return num_slots_++; }
  int NewPlan() { return num_plans_++; }
  int num_slots() const { return num_slots_; }
  int num_plans() const { return num_plans_; }

 private:
  int num_slots_ = 0, num_plans_ = 0;
};

class Tape {
 public:
  Tape(const TapeLayout& layout, ActivationPool& pool)
      : pool_(pool), entries_(layout.num_slots()), plans_(layout.num_plans()) {}
  ~Tape() { Clear(); }
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // A new tensor in an empty slot.
  TensorView New(SlotId slot, DType dtype, const Shape& shape) {
    Entry& entry = entries_[slot];
    CHECK(entry.block < 0) << "slot " << slot << " is taken";
    entry.block = pool_.Acquire(static_cast<size_t>(shape.num_elements()) * kernels::SizeOf(dtype));
    entry.view = pool_.View(entry.block, dtype, shape);
    return entry.view;
  }
  TensorView Get(SlotId slot) const {
    CHECK(entries_[slot].block >= 0) << "slot " << slot << " is empty";
    return entries_[slot].view;
  }
  // The tensor, or a null view where the slot is empty.
  ConstTensorView Find(SlotId slot) const { return entries_[slot].view; }
  bool Has(SlotId slot) const { return entries_[slot].block >= 0; }
  void Free(SlotId slot) {
    Entry& entry = entries_[slot];
    if (entry.block >= 0) pool_.Release(entry.block);
    entry = Entry{};
  }
  // Whoever took a slot must have freed it.
  void CheckIsEmpty() const {
    for (size_t slot = 0; slot < entries_.size(); ++slot) {
      CHECK(entries_[slot].block < 0) << "slot " << slot << " was not freed";
    }
  }
  void Clear() {
    for (int slot = 0; slot < static_cast<int>(entries_.size()); ++slot) Free(slot);
  }
  parallel::ExchangePlan& plan(int index) { return plans_[index]; }

 private:
  struct Entry {
    int block = -1;
    TensorView view;
  };
  ActivationPool& pool_;
  std::vector<Entry> entries_;
  std::vector<parallel::ExchangePlan> plans_;
};

}  // namespace sluice::trainer
