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
  allocation.shadow.resize(kind == MemoryKind::kPinned ? 0 : bytes / allocation.granule + 1);
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
  Allocation* allocation = Find(address);
  const auto complain = [&](const std::string& why) {
    const char* verb = kind == AccessKind::kRead ? "reads " : "writes ";
    return verb + std::to_string(bytes) + " bytes " + why;
  };
  if (allocation == nullptr || allocation->kind == MemoryKind::kPinned) {
    return complain("at an address that is not device memory");
  }
  const auto of = [&] {
    return " of an allocation of " + std::to_string(allocation->bytes) + " bytes";
  };
  if (allocation->is_freed) return complain(of().substr(1) + " that was freed");
  const uint64_t end = address + bytes, limit = allocation->address + allocation->bytes;
  if (end > limit) return complain(std::to_string(end - limit) + " past the end" + of());
  const uint64_t offset = address - allocation->address;
  while ((offset | bytes) % allocation->granule != 0) Narrow(*allocation);
  const size_t granule = allocation->granule;
  for (size_t i = offset / granule; i * granule < offset + bytes; ++i) {
    const std::string why = TouchCell(allocation->shadow[i], *allocation, kind, who);
    if (why.empty()) continue;
    return complain("at offset " + std::to_string(i * granule) + of() + ": " + why);
  }
  return "";
}

void GlobalMemory::Narrow(Allocation& allocation) {
  allocation.granule /= 2;
  std::vector<Cell> finer;
  finer.reserve(2 * allocation.shadow.size());
  for (const Cell& cell : allocation.shadow) finer.insert(finer.end(), 2, cell);
  allocation.shadow = std::move(finer);
}

// Whether `earlier` is known to come before `who`, which counts as `as_block`.
bool GlobalMemory::IsOrdered(const Access& earlier, uint32_t as_block, const Accessor& who) const {
  if (earlier.op == who.op) {
    if (earlier.block != as_block) return false;
    if (as_block == kAtomically || who.clock == nullptr) return true;
    if (earlier.warp == who.warp) {
      return earlier.lane < 0 || who.lane < 0 || earlier.lane == who.lane ||
             earlier.epoch != who.epoch;
    }
    return (*who.clock)[static_cast<size_t>(earlier.warp)] >= earlier.clock;
  }
  if (earlier.op == ordered_first_ && who.op == ordered_second_) return true;
  if (!clocks_.IsOrdered(earlier.op, who.op)) return false;
  ordered_first_ = earlier.op;
  ordered_second_ = who.op;
  return true;
}

std::string GlobalMemory::Conflict(const char* what, const Access& earlier,
                                   const Accessor& who) const {
  if (earlier.op != who.op) {
    return std::string(what) + " by '" + clocks_.NameOf(earlier.op) +
           "', which no stream, event or synchronisation orders before '" + clocks_.NameOf(who.op) +
           "'";
  }
  if (earlier.block == who.block && earlier.warp == who.warp) {
    const std::string lane =
        earlier.lane == kManyLanes ? "several lanes" : "lane " + std::to_string(earlier.lane);
    return std::string(what) + " by " + lane + " of the same warp with no warp barrier in between";
  }
  if (earlier.block == who.block) {
    return std::string(what) + " by warp " + std::to_string(earlier.warp) +
           " of the same block with no barrier in between";
  }
  const std::string other = earlier.block == kManyBlocks ? "several blocks"
                            : earlier.block == kAtomically
                                ? "an atomic operation"
                                : "block number " + std::to_string(earlier.block - 1);
  return std::string(what) + " by " + other + " of the same launch";
}

std::string GlobalMemory::TouchCell(Cell& cell, const Allocation& allocation, AccessKind kind,
                                    const Accessor& who) const {
  const uint32_t me = kind == AccessKind::kAtomic ? kAtomically : who.block;
  const uint32_t clock = who.clock == nullptr ? 0 : (*who.clock)[static_cast<size_t>(who.warp)];
  if (cell.write.op == 0) {
    if (kind != AccessKind::kWrite && allocation.kind == MemoryKind::kDevice) {
      return "never written";
    }
  } else if (!IsOrdered(cell.write, me, who)) {
    return Conflict("written", cell.write, who);
  }
  if (kind == AccessKind::kRead) {
    const bool is_other_block = cell.read.op == who.op && cell.read.block != who.block;
    const bool is_other_lane = cell.read.op == who.op && cell.read.block == who.block &&
                               cell.read.warp == who.warp && cell.read.epoch == who.epoch &&
                               cell.read.lane != who.lane;
    cell.read = {.op = who.op,
                 .block = is_other_block ? kManyBlocks : who.block,
                 .clock = clock,
                 .epoch = who.epoch,
                 .warp = static_cast<int8_t>(who.warp),
                 .lane = is_other_lane ? kManyLanes : static_cast<int8_t>(who.lane)};
    return "";
  }
  if (cell.read.op != 0 && !IsOrdered(cell.read, who.block, who)) {
    return Conflict("read", cell.read, who);
  }
  cell.write = {.op = who.op,
                .block = me,
                .clock = clock,
                .epoch = who.epoch,
                .warp = static_cast<int8_t>(who.warp),
                .lane = static_cast<int8_t>(who.lane)};
  return "";
}

}  // namespace sluice::cuda_double
