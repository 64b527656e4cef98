// Races on a block's shared memory, by vector clocks: two accesses, one a write, of different
// agents with no barrier in between. Agents are the warps, and those who read and write on their
// behalf. Within a warp: of two lanes with no warp barrier in between, since lanes may run apart.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace sluice::cuda_double {

inline constexpr int kMaxWarps = 32;  // of a block
// The tensor core that reads for warp w is agent kTensorAgents + w, and the copies that report to
// the block's i-th mbarrier are agent kCopyAgents + i.
inline constexpr int kTensorAgents = kMaxWarps, kCopyAgents = 2 * kMaxWarps;
inline constexpr int kMaxMbarriers = 64, kMaxAgents = kCopyAgents + kMaxMbarriers;

// What an agent knows of the others: entry a counts the barriers of agent a that it has seen (of a
// tensor core its finished groups, of copies their number). A warp's own entry starts at 1.
using Clock = std::array<uint32_t, kMaxAgents>;

inline void Join(Clock& clock, const Clock& other) {
  for (size_t i = 0; i < clock.size(); ++i) clock[i] = clock[i] < other[i] ? other[i] : clock[i];
}

// Some bytes that an agent reads or writes.
struct SharedAccess {
  size_t offset = 0, bytes = 0;
  int agent = 0;
  int pc = 0;
  int lane = -1;       // of a warp; -1: no lane
  uint32_t epoch = 0;  // how many barriers of its own the warp has passed
};

class SharedRaces {
 public:
  // `granule`: the narrowest access that the kernel makes, in bytes.
  SharedRaces(size_t bytes, size_t granule);

  // Check and note an access; "" or what is wrong. `seen`: which writes are visible to the agent,
  // where that differs from `clock` (asynchronous units see what warps wrote only past a fence).
  std::string Read(const SharedAccess& access, const Clock& clock);
  std::string Write(const SharedAccess& access, const Clock& clock) {
    return Write(access, clock, clock);
  }
  std::string Write(const SharedAccess& access, const Clock& clock, const Clock& seen);
  // The instruction that the last complaint is about.
  int conflicting_pc() const { return conflicting_pc_; }

 private:
  struct Cell {
    uint32_t write_clock = 0;  // 0: never written
    uint32_t read_clock = 0;   // 0: not read since; of the last reader
    int32_t write_pc = 0, read_pc = 0;
    uint32_t write_epoch = 0, read_epoch = 0;
    uint8_t writer = 0, reader = 0;
    int8_t write_lane = -1, read_lane = -1;  // kManyLanes: several read in read_epoch
    int32_t readers = -1;                    // where there are several: index into many_
  };
  static constexpr int8_t kManyLanes = 32;
  std::string Complain(const char* what, size_t cell, int agent, int pc);
  // Another lane of the same warp touched the cell in this epoch; "" or what is wrong.
  std::string LaneConflict(const Cell& cell, size_t index, const SharedAccess& access,
                           bool is_write);
  void NoteReader(Cell& cell, const SharedAccess& access, const Clock& clock);

  const size_t granule_;
  std::vector<Cell> cells_;
  std::vector<Clock> many_;      // clock of each reading agent, 0 for those that did not
  std::vector<int32_t> unused_;  // of many_
  int conflicting_pc_ = 0;
};

}  // namespace sluice::cuda_double
