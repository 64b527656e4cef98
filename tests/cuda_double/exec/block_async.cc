// The part of a block that works beside its warps: copies into shared memory, and what the tensor
// cores read there.
#include <algorithm>
#include <cstring>

#include "tests/cuda_double/exec/block.h"

namespace sluice::cuda_double {
namespace {

// What an asynchronous unit may read: of the warps' writes only those past a proxy fence.
Clock VisibleToUnits(const Knowledge& known) {
  Clock seen = known.clock;
  std::copy_n(known.fenced.begin(), kMaxWarps, seen.begin());
  return seen;
}

}  // namespace

void Block::Issue(const Context& c, const BulkCopy& copy) {
  if (copy.to + copy.Bytes() > shared_.size()) {
    return Fail(c, copy.lane, "copies past the end of shared memory");
  }
  Clock clock = c.warp.known.clock, seen = VisibleToUnits(c.warp.known);
  clock[static_cast<size_t>(copy.agent)] = copy.number;
  const std::string why = races_.Write(
      {.offset = copy.to, .bytes = copy.Bytes(), .agent = copy.agent, .pc = c.pc}, clock, seen);
  if (!why.empty()) {
    return Fail(c, copy.lane, why + "; there: " + Place(std::max(0, races_.conflicting_pc())));
  }
  copies_.push_back(copy);
  if (launch_.timing == Timing::kEarly) RunCopy(copies_.size() - 1);
}

bool Block::RunCopiesAtRandom() {
  const size_t before = copies_.size();
  while (!copies_.empty() && random_() % 3 == 0) RunCopy(random_() % copies_.size());
  return copies_.size() != before;
}

void Block::RunCopy(size_t index) {
  const BulkCopy copy = copies_[index];
  copies_.erase(copies_.begin() + static_cast<std::ptrdiff_t>(index));
  const TensorMap& map = copy.map;
  const auto extent = [&](size_t i) { return static_cast<int64_t>(map.extents[i]); };
  // The part of the box's rows that the tensor has; the rest is zeros.
  const int64_t first = std::clamp<int64_t>(-copy.first[0], 0, map.box[0]);
  const int64_t last = std::clamp<int64_t>(extent(0) - copy.first[0], first, map.box[0]);
  for (int64_t row = 0; row < int64_t{map.box[1]} * map.box[2]; ++row) {
    const int64_t y = copy.first[1] + row % map.box[1], z = copy.first[2] + row / map.box[1];
    const bool is_inside = y >= 0 && y < extent(1) && z >= 0 && z < extent(2) && first < last;
    std::vector<uint8_t> bytes(copy.RowBytes(), 0);
    if (is_inside) {
      const uint64_t from = map.address + static_cast<uint64_t>(y) * map.strides[0] +
                            static_cast<uint64_t>(z) * map.strides[1] +
                            static_cast<uint64_t>(copy.first[0] + first) * map.element_bytes;
      const size_t count = static_cast<size_t>(last - first) * map.element_bytes;
      const std::string why = launch_.memory->Touch(
          from, count, AccessKind::kRead, AccessorOf(warps_[static_cast<size_t>(copy.warp)]));
      if (!why.empty()) return FailAt(copy.warp, copy.lane, copy.pc, why);
      std::memcpy(&bytes[static_cast<size_t>(first) * map.element_bytes],
                  reinterpret_cast<const void*>(from), count);
    }
    const uint64_t to = copy.to + static_cast<uint64_t>(row) * copy.RowBytes();
    for (uint64_t i = 0; i < bytes.size(); i += 16) {
      std::memcpy(&shared_[Swizzled(to + i, map.swizzle)], &bytes[i],
                  std::min<size_t>(16, bytes.size() - i));
    }
  }
  mbarriers_.CompleteCopy(copy.mbarrier, static_cast<int64_t>(copy.Bytes()), copy.agent,
                          copy.number);
}

bool Block::CheckTensorRead(const Context& c, uint64_t offset, size_t bytes) {
  const int agent = kTensorAgents + c.warp.index;
  Clock clock = VisibleToUnits(c.warp.known);
  clock[static_cast<size_t>(agent)] = c.warp.products.num_committed + 1;  // this group's number
  std::string why = "reads past the end of shared memory";
  if (offset + bytes <= shared_.size()) {
    why = races_.Read({.offset = offset, .bytes = bytes, .agent = agent, .pc = c.pc}, clock);
  }
  if (why.empty()) return true;
  if (races_.conflicting_pc() >= 0) why += "; there: " + Place(races_.conflicting_pc());
  Fail(c, FirstLane(c.mask), why);
  return false;
}

}  // namespace sluice::cuda_double
