// The device's memory: where it is allocated, which bytes were written, and who touched them last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/cuda_double/check/op_clocks.h"

namespace sluice::cuda_double {

enum class AccessKind : uint8_t { kRead, kWrite, kAtomic };

// Who touches memory: an operation, and for a kernel which of its blocks (counted from 1).
struct Accessor {
  OpId op = 0;
  uint32_t block = 0;
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
  static constexpr uint32_t kManyBlocks = 0xffffffffu, kAtomically = 0xfffffffeu;
  // The last write and the last read of a byte.
  struct Byte {
    OpId write_op = 0;
    uint32_t write_block = 0;
    OpId read_op = 0;
    uint32_t read_block = 0;
  };
  struct Allocation {
    uint64_t address = 0;
    size_t bytes = 0;
    MemoryKind kind = MemoryKind::kDevice;
    bool is_freed = false;
    std::unique_ptr<char[]> storage;
    std::vector<Byte> shadow;
  };

  Allocation* Find(uint64_t address);
  std::string TouchByte(Byte& byte, const Allocation& allocation, AccessKind kind,
                        const Accessor& who) const;
  std::string Conflict(const char* what, OpId op, uint32_t block, const Accessor& who) const;
  bool MustFollow(OpId op, const Accessor& who) const;

  const OpClocks& clocks_;
  std::map<uint64_t, Allocation> allocations_;  // by address
  Allocation* last_found_ = nullptr;
  mutable OpId ordered_first_ = 0, ordered_second_ = 0;  // the last pair found in order
};

}  // namespace sluice::cuda_double
