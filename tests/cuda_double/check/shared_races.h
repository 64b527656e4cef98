// Races between the warps of a block on its shared memory, by vector clocks: two accesses, one a
// write, of different warps with no barrier in between.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace sluice::cuda_double {

inline constexpr int kMaxWarps = 32;  // of a block

// What a warp knows of the others: entry w counts the barriers of warp w that it has seen. Its own
// entry starts at 1.
using WarpClock = std::array<uint32_t, kMaxWarps>;

class SharedRaces {
 public:
  // `granule`: the narrowest access that the kernel makes, in bytes.
  SharedRaces(size_t bytes, size_t granule);

  // Check and note an access by `warp` at instruction `pc`; "" or what is wrong.
  std::string Read(size_t offset, size_t bytes, int warp, const WarpClock& clock, int pc);
  std::string Write(size_t offset, size_t bytes, int warp, const WarpClock& clock, int pc);
  // The instruction that the last complaint is about.
  int conflicting_pc() const { return conflicting_pc_; }

 private:
  struct Cell {
    uint32_t write_clock = 0;  // 0: never written
    uint32_t read_clock = 0;   // 0: not read since; of the last reader
    int32_t write_pc = 0, read_pc = 0;
    uint8_t writer = 0, reader = 0;
    int32_t readers = -1;  // where there are several: index into many_
  };
  std::string Complain(const char* what, size_t cell, int warp, int pc);
  void NoteReader(Cell& cell, int warp, const WarpClock& clock, int pc);

  const size_t granule_;
  std::vector<Cell> cells_;
  std::vector<WarpClock> many_;  // clock of each reading warp, 0 for those that did not
  int conflicting_pc_ = 0;
};

}  // namespace sluice::cuda_double
