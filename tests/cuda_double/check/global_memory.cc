#include "tests/cuda_double/check/global_memory.h"

#include <cstring>
#include <new>

namespace sluice::cuda_double {
namespace {

constexpr uint64_t kAlignment = 256;  // what cudaMalloc promises

}  // namespace

void* GlobalMemory::Allocate(size_t bytes, MemoryKind kind) {
  Allocation allocation;
  allocation.storage.reset(new (std::nothrow) char[bytes + 2 * kRedZone + kAlignment]);
  if (allocation.storage == nullptr) return nullptr;
  const auto begin = reinterpret_cast<uint64_t>(allocation.storage.get()) + kRedZone;
  allocation.address = (begin + kAlignment - 1) / kAlignment * kAlignment;
  allocation.bytes = bytes;
  allocation.kind = kind;
  allocation.shadow.resize(kind == MemoryKind::kPinned ? 0 : bytes);
  auto* data = reinterpret_cast<void*>(allocation.address);
  std::memset(data, 0xcd, bytes);
  last_found_ = nullptr;
  allocations_[allocation.address] = std::move(allocation);
  return data;
}

bool GlobalMemory::Free(void* data) {
  const auto found = allocations_.find(reinterpret_cast<uint64_t>(data));
  if (found == allocations_.end() || found->second.is_freed) return false;
  Allocation& allocation = found->second;
  allocation.is_freed = true;
  std::memset(data, 0xdd, allocation.bytes);
  allocation.shadow.clear();
  allocation.shadow.shrink_to_fit();
  // Large blocks go back at once; the place is then unknown rather than freed.
  constexpr size_t kLargestKept = 1 << 20;
  if (allocation.bytes > kLargestKept) allocations_.erase(found);
  last_found_ = nullptr;
  return true;
}

bool GlobalMemory::IsKnown(const void* data, MemoryKind kind) const {
  const auto address = reinterpret_cast<uint64_t>(data);
  auto found = allocations_.upper_bound(address);
  if (found == allocations_.begin()) return false;
  const Allocation& allocation = (--found)->second;
  return !allocation.is_freed && allocation.kind == kind &&
         address < allocation.address + allocation.bytes;
}

GlobalMemory::Allocation* GlobalMemory::Find(uint64_t address) {
  if (last_found_ != nullptr && address - last_found_->address < last_found_->bytes) {
    return last_found_;
  }
  auto found = allocations_.upper_bound(address);
  if (found == allocations_.begin()) return nullptr;
  Allocation& allocation = (--found)->second;
  if (address >= allocation.address + allocation.bytes + kRedZone) return nullptr;
  last_found_ = &allocation;
  return last_found_;
}

std::string GlobalMemory::Touch(uint64_t address, size_t bytes, AccessKind kind,
                                const Accessor& who) {
  const char* verb = kind == AccessKind::kRead ? "reads " : "writes ";
  const std::string access = verb + std::to_string(bytes) + " bytes ";
  Allocation* allocation = Find(address);
  if (allocation == nullptr || allocation->kind == MemoryKind::kPinned) {
    return access + "at an address that is not device memory";
  }
  const std::string of = " of an allocation of " + std::to_string(allocation->bytes) + " bytes";
  if (allocation->is_freed) return access + of.substr(1) + " that was freed";
  const uint64_t end = address + bytes, limit = allocation->address + allocation->bytes;
  if (end > limit) return access + std::to_string(end - limit) + " past the end" + of;
  Byte* shadow = &allocation->shadow[address - allocation->address];
  for (size_t i = 0; i < bytes; ++i) {
    const std::string why = TouchByte(shadow[i], *allocation, kind, who);
    if (why.empty()) continue;
    return access + "at offset " + std::to_string(address - allocation->address + i) + of + ": " +
           why;
  }
  return "";
}

bool GlobalMemory::MustFollow(OpId op, const Accessor& who) const {
  if (op == ordered_first_ && who.op == ordered_second_) return false;
  if (!clocks_.IsOrdered(op, who.op)) return true;
  ordered_first_ = op;
  ordered_second_ = who.op;
  return false;
}

std::string GlobalMemory::Conflict(const char* what, OpId op, uint32_t block,
                                   const Accessor& who) const {
  if (op == who.op) {
    const std::string other = block == kManyBlocks   ? "several blocks"
                              : block == kAtomically ? "an atomic operation"
                                                     : "block number " + std::to_string(block - 1);
    return std::string(what) + " by " + other + " of the same launch";
  }
  return std::string(what) + " by '" + clocks_.NameOf(op) +
         "', which no stream, event or synchronisation orders before '" + clocks_.NameOf(who.op) +
         "'";
}

std::string GlobalMemory::TouchByte(Byte& byte, const Allocation& allocation, AccessKind kind,
                                    const Accessor& who) const {
  const uint32_t me = kind == AccessKind::kAtomic ? kAtomically : who.block;
  if (byte.write_op == 0) {
    if (kind != AccessKind::kWrite && allocation.kind == MemoryKind::kDevice) {
      return "never written";
    }
  } else if (byte.write_op == who.op ? byte.write_block != me : MustFollow(byte.write_op, who)) {
    return Conflict("written", byte.write_op, byte.write_block, who);
  }
  if (kind == AccessKind::kRead) {
    const bool is_other_block = byte.read_op == who.op && byte.read_block != who.block;
    byte.read_block = is_other_block ? kManyBlocks : who.block;
    byte.read_op = who.op;
    return "";
  }
  if (byte.read_op != 0 &&
      (byte.read_op == who.op ? byte.read_block != who.block : MustFollow(byte.read_op, who))) {
    return Conflict("read", byte.read_op, byte.read_block, who);
  }
  byte.write_op = who.op;
  byte.write_block = me;
  return "";
}

}  // namespace sluice::cuda_double
