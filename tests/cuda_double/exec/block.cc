#include "tests/cuda_double/exec/block.h"

#include <algorithm>
#include <numeric>

namespace sluice::cuda_double {
namespace {

constexpr uint64_t kMostSteps = 1ull << 32;  // a kernel of ours that runs longer does not end

}  // namespace

Block::Block(const Launch& launch, Extent index, uint32_t number)
    : launch_(launch),
      index_(index),
      number_(number),
      num_threads_(launch.block.x * launch.block.y * launch.block.z),
      warps_((num_threads_ + kLanes - 1) / kLanes),
      shared_(launch.kernel->dynamic_offset + launch.dynamic_shared_bytes, 0xee),
      races_(shared_.size(), launch.kernel->shared_granule),
      local_(launch.kernel->local_bytes * num_threads_, 0xee),
      random_(launch.seed * 7919u + number) {
  for (size_t w = 0; w < warps_.size(); ++w) {
    warps_[w].index = static_cast<int>(w);
    StartWarp(warps_[w]);
  }
}

uint64_t Block::ValueOf(Special special, const Warp& warp, int lane) const {
  const auto thread = static_cast<unsigned>(warp.index * kLanes + lane);
  const Extent &block = launch_.block, &grid = launch_.grid;
  switch (special) {
    case Special::kTidX:
      return thread % block.x;
    case Special::kTidY:
      return thread / block.x % block.y;
    case Special::kTidZ:
      return thread / block.x / block.y;
    case Special::kNtidX:
      return block.x;
    case Special::kNtidY:
      return block.y;
    case Special::kNtidZ:
      return block.z;
    case Special::kCtaidX:
      return index_.x;
    case Special::kCtaidY:
      return index_.y;
    case Special::kCtaidZ:
      return index_.z;
    case Special::kNctaidX:
      return grid.x;
    case Special::kNctaidY:
      return grid.y;
    case Special::kNctaidZ:
      return grid.z;
    case Special::kLaneId:
      return static_cast<uint64_t>(lane);
    case Special::kWarpId:
      return static_cast<uint64_t>(warp.index);
  }
  return 0;
}

void Block::StartWarp(Warp& warp) {
  const unsigned first = static_cast<unsigned>(warp.index) * kLanes;
  const unsigned lanes = std::min<unsigned>(kLanes, num_threads_ - first);
  warp.existing = lanes == kLanes ? 0xffffffffu : (1u << lanes) - 1;
  warp.live = warp.existing;
  warp.known.clock[static_cast<size_t>(warp.index)] = 1;
  // A register that is read before it is written holds no zero.
  warp.rows.assign(static_cast<size_t>(launch_.kernel->num_rows) * kLanes, 0xdeaddeaddeaddeadull);
  for (const auto& [row, value] : launch_.kernel->constants) {
    std::fill_n(warp.Row(row), kLanes, value);
  }
  for (const auto& [row, special] : launch_.kernel->specials) {
    for (int lane = 0; lane < kLanes; ++lane) warp.Row(row)[lane] = ValueOf(special, warp, lane);
  }
}

std::string Block::Run() {
  std::vector<size_t> order(warps_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  while (true) {
    std::shuffle(order.begin(), order.end(), random_);
    bool is_live = false, has_moved = false;
    for (size_t w : order) {
      if (RunSome(warps_[w])) has_moved = true;
      if (has_failed()) return error_;
      is_live = is_live || warps_[w].live != 0;
    }
    if (!is_live) {
      if (!copies_.empty())
        FailAt(copies_[0].warp, copies_[0].lane, copies_[0].pc,
               "the block ends before this copy has arrived");
      return error_;
    }
    if (launch_.timing == Timing::kRandom && RunCopiesAtRandom()) continue;
    if (has_moved) continue;
    if (copies_.empty()) return Deadlock();
    RunCopy(random_() % copies_.size());
  }
}

// Up to some number of instructions of a warp; false if it can do none.
bool Block::RunSome(Warp& warp) {
  const unsigned budget = 1 + random_() % 64;
  unsigned done = 0;
  while (done < budget && warp.live != 0 && !IsBlocked(warp) && !has_failed()) {
    Step(warp);
    ++done;
  }
  steps_ += done;
  if (steps_ > kMostSteps) error_ = launch_.kernel->title + ": does not end";
  return done > 0;
}

void Block::Step(Warp& warp) {
  int pc = warp.pc;
  uint32_t group = warp.live;
  if (!warp.is_converged) {
    // The lanes that are behind go first, so that all meet again.
    pc = INT32_MAX;
    for (uint32_t rest = warp.live; rest != 0; rest &= rest - 1) {
      pc = std::min(pc, warp.pcs[static_cast<size_t>(__builtin_ctz(rest))]);
    }
    group = 0;
    for (uint32_t rest = warp.live; rest != 0; rest &= rest - 1) {
      const int lane = __builtin_ctz(rest);
      if (warp.pcs[static_cast<size_t>(lane)] == pc) group |= 1u << lane;
    }
    if (group == warp.live) {
      warp.is_converged = true;
      warp.pc = pc;
    }
  }
  const Instruction& instruction = launch_.kernel->code[static_cast<size_t>(pc)];
  uint32_t mask = group;
  if (instruction.guard >= 0) {
    const uint64_t* guard = warp.Row(instruction.guard);
    uint32_t holds = 0;
    for (int lane = 0; lane < kLanes; ++lane)
      holds |= static_cast<uint32_t>(guard[lane] & 1) << lane;
    mask &= instruction.guard_is_negated ? ~holds : holds;
  }
  if (instruction.flow == Flow::kBranch) return Branch(warp, group, mask, pc);
  if (instruction.flow == Flow::kExit) {
    if ((warp.live &= ~mask) == 0 && !warp.products.is_empty()) {
      return FailAt(warp.index, 0, pc, "the warp ends before its matrix products are waited for");
    }
    Advance(warp, group & ~mask, pc + 1);
    if (warp.live == 0) CompleteIfAllArrived();
    return;
  }
  Advance(warp, group, pc + 1);
  if (mask != 0) instruction.run({*this, warp, instruction, mask, pc});
}

void Block::Advance(Warp& warp, uint32_t group, int pc) {
  if (warp.is_converged) {
    warp.pc = pc;
    return;
  }
  for (; group != 0; group &= group - 1) warp.pcs[static_cast<size_t>(__builtin_ctz(group))] = pc;
}

void Block::Branch(Warp& warp, uint32_t group, uint32_t taken, int pc) {
  const int target = launch_.kernel->code[static_cast<size_t>(pc)].target;
  if (taken == 0 || taken == group) return Advance(warp, group, taken == 0 ? pc + 1 : target);
  if (warp.is_converged) {
    warp.is_converged = false;
    warp.pcs.fill(pc);
  }
  Advance(warp, taken, target);
  Advance(warp, group & ~taken, pc + 1);
}

void Block::ArriveAtBarrier(const Context& c, int barrier, unsigned threads, bool waits) {
  if (c.mask != c.warp.live) {
    return Fail(c, FirstLane(c.mask), "a barrier that not all lanes of the warp reach together");
  }
  if (threads % kLanes != 0) {
    return Fail(c, FirstLane(c.mask), "a barrier's number of threads is no multiple of 32");
  }
  Barrier& b = barriers_[barrier];
  if (std::count(b.others.begin(), b.others.end(), c.warp.index) != 0) {
    return Fail(c, FirstLane(c.mask), "the warp has arrived at this barrier already");
  }
  b.arrived += kLanes;
  if (waits) {
    b.warps.push_back(c.warp.index);
    c.warp.is_waiting = true;
  } else {
    const Knowledge known = Release(c.warp);
    Join(b.known_by_others.clock, known.clock);
    Join(b.known_by_others.fenced, known.fenced);
    b.others.push_back(c.warp.index);
  }
  if (threads != 0 && b.arrived >= threads) return Complete(barrier);
  if (threads == 0) CompleteIfAllArrived();
}

// bar.sync without a count is for all warps that have not exited.
void Block::CompleteIfAllArrived() {
  const auto alive = static_cast<size_t>(
      std::count_if(warps_.begin(), warps_.end(), [](const Warp& warp) { return warp.live != 0; }));
  for (auto& [id, barrier] : barriers_) {
    if (!barrier.warps.empty() && barrier.warps.size() == alive) Complete(id);
  }
}

void Block::Complete(int barrier) {
  Barrier& b = barriers_[barrier];
  Knowledge joined = b.known_by_others;
  for (int w : b.warps) {
    const Knowledge& known = warps_[static_cast<size_t>(w)].known;
    Join(joined.clock, known.clock);
    Join(joined.fenced, known.fenced);
  }
  for (int w : b.warps) {
    Warp& warp = warps_[static_cast<size_t>(w)];
    warp.known = joined;
    ++warp.known.clock[static_cast<size_t>(w)];
    ++warp.epoch;
    warp.is_waiting = false;
  }
  b = {};
}

bool Block::IsBlocked(Warp& warp) const {
  if (warp.mbarrier >= 0) {
    if (!mbarriers_.IsPast(static_cast<uint64_t>(warp.mbarrier), warp.mbarrier_parity)) return true;
    warp.mbarrier = -1;
  }
  return warp.is_waiting;
}

Knowledge Block::Release(Warp& warp) const {
  const Knowledge known = warp.known;
  ++warp.known.clock[static_cast<size_t>(warp.index)];
  return known;
}

void Block::WaitForPhase(const Context& c, uint64_t mbarrier, uint32_t parity) {
  c.warp.mbarrier = static_cast<int64_t>(mbarrier);
  c.warp.mbarrier_parity = parity;
  Advance(c.warp, c.mask, c.pc);
}

std::string Block::Place(int pc) const {
  const Instruction& instruction = launch_.kernel->code[static_cast<size_t>(pc)];
  std::string place =
      "PTX line " + std::to_string(instruction.ptx_line) + " `" + instruction.Text() + "`";
  const auto file = launch_.module->files.find(instruction.source.file);
  if (file != launch_.module->files.end()) {
    place += " (" + file->second + ":" + std::to_string(instruction.source.line) + ")";
  }
  return place;
}

void Block::Fail(const Context& c, int lane, const std::string& what) {
  FailAt(c.warp.index, lane, c.pc, what);
}

void Block::FailAt(int warp, int lane, int pc, const std::string& what) {
  if (has_failed()) return;
  error_ = launch_.kernel->title + ": " + Place(pc) + " block (" + std::to_string(index_.x) + "," +
           std::to_string(index_.y) + "," + std::to_string(index_.z) + ") warp " +
           std::to_string(warp) + " lane " + std::to_string(lane) + ": " + what;
}

std::string Block::Deadlock() const {
  std::string text = launch_.kernel->title + ": deadlock in block (" + std::to_string(index_.x) +
                     "," + std::to_string(index_.y) + "," + std::to_string(index_.z) + "):";
  for (const Warp& warp : warps_) {
    if (warp.live == 0) continue;
    // A warp that waits has already stepped past its barrier, but not past an mbarrier.
    const int behind = warp.mbarrier >= 0 ? 0 : 1;
    const int pc =
        (warp.is_converged ? warp.pc : *std::min_element(warp.pcs.begin(), warp.pcs.end()));
    text +=
        "\n  warp " + std::to_string(warp.index) + " waits at " + Place(std::max(0, pc - behind));
  }
  return text;
}

uint8_t* Block::Access(const Context& c, int lane, uint64_t address, size_t bytes,
                       AccessKind kind) {
  if (address % bytes != 0) {
    Fail(c, lane, "an access of " + std::to_string(bytes) + " bytes is not aligned to them");
    return nullptr;
  }
  const uint64_t window = c.instruction.space == Space::kShared    ? kSharedWindow
                          : c.instruction.space == Space::kLocal   ? kLocalWindow
                          : c.instruction.space == Space::kGeneric ? address & kWindowMask
                                                                   : 0;
  std::string why;
  uint8_t* data = nullptr;
  if (window == kSharedWindow) {
    const uint64_t offset = address & 0xffffffffu;
    if (offset + bytes > shared_.size()) {
      why = "shared memory of " + std::to_string(shared_.size()) + " bytes: accesses " +
            std::to_string(bytes) + " bytes at offset " + std::to_string(offset);
    } else {
      const SharedAccess access = {.offset = offset,
                                   .bytes = bytes,
                                   .agent = c.warp.index,
                                   .pc = c.pc,
                                   .lane = kind == AccessKind::kAtomic ? -1 : lane,
                                   .epoch = c.warp.epoch};
      why = kind == AccessKind::kRead ? races_.Read(access, c.warp.known.clock)
                                      : races_.Write(access, c.warp.known.clock);
      if (!why.empty() && races_.conflicting_pc() >= 0) {
        why += "; there: " + Place(races_.conflicting_pc());
      }
    }
    if (why.empty()) data = shared_.data() + offset;
  } else if (window == kLocalWindow) {
    const uint64_t offset = address & 0xffffffffu, each = launch_.kernel->local_bytes;
    if (offset + bytes > each) why = "outside of the thread's local memory";
    const auto thread = static_cast<uint64_t>(c.warp.index * kLanes + lane);
    if (why.empty()) data = local_.data() + thread * each + offset;
  } else {
    why = launch_.memory->Touch(address, bytes, kind, AccessorOf(c.warp, lane));
    data = reinterpret_cast<uint8_t*>(address);
  }
  if (why.empty()) return data;
  Fail(c, lane, why);
  return nullptr;
}

}  // namespace sluice::cuda_double
