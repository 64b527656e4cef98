// The device's memory: where it is allocated, which bytes were written, and who touched them last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/cuda_double/check/op_clocks.h"
#include "tests/cuda_double/check/shared_races.h"

namespace sluice::cuda_double {

enum class AccessKind : uint8_t { kRead, kWrite, kAtomic };

// Who touches memory: an operation, and for a kernel which of its blocks (counted from 1) and of
// the block's warps, with what that warp knows of the others, and which of its lanes.
struct Accessor {
  OpId op = 0;
  uint32_t block = 0;
  int warp = 0;
  const Clock* clock = nullptr;  // null: no kernel
  int lane = -1;                 // -1: none, a copy on the warp's behalf
  uint32_t epoch = 0;            // how many barriers of its own the warp has passed
};

enum class MemoryKind : uint8_t {
  kDevice,   // the host must not touch it; reads before a write are errors
  kManaged,  // the host writes it too, unseen: counts as initialised
  kPinned,   // host memory that copies may use asynchronously; kernels may not touch it
};

class GlobalMemory {
 public:
  explicit GlobalMemory(const OpClocks& clocks) : clocks_(clocks) {}

  void* Allocate(size_t bytes, MemoryKind kind);  // null when there is none
  // False if `data` is not the start of an allocation. The block is kept, so that later accesses
  // are known as accesses to freed memory.
  bool Free(void* data);
  bool IsKnown(const void* data, MemoryKind kind) const;

  // Checks and notes an access of a kernel or a copy; "" or what is wrong with it.
  std::string Touch(uint64_t address, size_t bytes, AccessKind kind, const Accessor& who);

 private:
  static constexpr size_t kRedZone = 256;
  static constexpr int8_t kManyLanes = 32;
  static constexpr uint32_t kManyBlocks = 0xffffffffu, kAtomically = 0xfffffffeu;
  // An access that was made. The clock is the warp's own, and counts within its block alone.
  struct Access {
    OpId op = 0;
    uint32_t block = 0, clock = 0, epoch = 0;
    int8_t warp = 0, lane = -1;  // kManyLanes: several, in this epoch
  };
  // The last write and the last read of a few bytes that have always been accessed together.
  struct Cell {
    Access write, read;
  };
  struct Allocation {
    uint64_t address = 0;
    size_t bytes = 0;
    MemoryKind kind = MemoryKind::kDevice;
    bool is_freed = false;
    std::unique_ptr<char[]> storage;
    size_t granule = 4;  // bytes of a cell; narrowed by the first access that is narrower
    std::vector<Cell> shadow;
  };

  Allocation* Find(uint64_t address);
  static void Narrow(Allocation& allocation);
  std::string TouchCell(Cell& cell, const Allocation& allocation, AccessKind kind,
                        const Accessor& who) const;
  std::string Conflict(const char* what, const Access& earlier, const Accessor& who) const;
  bool IsOrdered(const Access& earlier, uint32_t as_block, const Accessor& who) const;

  const OpClocks& clocks_;
  std::map<uint64_t, Allocation> allocations_;  // by address
  Allocation* last_found_ = nullptr;
  mutable OpId ordered_first_ = 0, ordered_second_ = 0;  // the last pair found in order
};

}  // namespace sluice::cuda_double
