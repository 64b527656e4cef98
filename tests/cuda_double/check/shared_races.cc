#include "tests/cuda_double/check/shared_races.h"

namespace sluice::cuda_double {
namespace {

size_t At(int warp) { return static_cast<size_t>(warp); }

}  // namespace

SharedRaces::SharedRaces(size_t bytes, size_t granule)
    : granule_(granule), cells_((bytes + granule - 1) / granule) {}

std::string SharedRaces::Complain(const char* what, size_t cell, int warp, int pc) {
  conflicting_pc_ = pc;
  return "shared memory at offset " + std::to_string(cell * granule_) + ": " + what + " by warp " +
         std::to_string(warp) + " with no barrier in between";
}

void SharedRaces::NoteReader(Cell& cell, int warp, const WarpClock& clock, int pc) {
  if (cell.readers >= 0) {
    many_[static_cast<size_t>(cell.readers)][At(warp)] = clock[At(warp)];
  } else if (cell.read_clock != 0 && cell.reader != warp &&
             clock[cell.reader] < cell.read_clock) {  // neither comes first: remember both
    cell.readers = static_cast<int32_t>(many_.size());
    many_.push_back({});
    many_.back()[cell.reader] = cell.read_clock;
    many_.back()[At(warp)] = clock[At(warp)];
  }
  cell.reader = static_cast<uint8_t>(warp);
  cell.read_clock = clock[At(warp)];
  cell.read_pc = pc;
}

std::string SharedRaces::Read(size_t offset, size_t bytes, int warp, const WarpClock& clock,
                              int pc) {
  for (size_t i = offset / granule_; i * granule_ < offset + bytes; ++i) {
    Cell& cell = cells_[i];
    if (cell.write_clock == 0) {
      conflicting_pc_ = -1;
      return "shared memory at offset " + std::to_string(i * granule_) + " was never written";
    }
    if (cell.writer != warp && clock[cell.writer] < cell.write_clock) {
      return Complain("read here, written", i, cell.writer, cell.write_pc);
    }
    NoteReader(cell, warp, clock, pc);
  }
  return "";
}

std::string SharedRaces::Write(size_t offset, size_t bytes, int warp, const WarpClock& clock,
                               int pc) {
  for (size_t i = offset / granule_; i * granule_ < offset + bytes; ++i) {
    Cell& cell = cells_[i];
    if (cell.write_clock != 0 && cell.writer != warp && clock[cell.writer] < cell.write_clock) {
      return Complain("written here and", i, cell.writer, cell.write_pc);
    }
    if (cell.readers >= 0) {
      const WarpClock& readers = many_[static_cast<size_t>(cell.readers)];
      for (int other = 0; other < kMaxWarps; ++other) {
        if (other != warp && clock[At(other)] < readers[At(other)]) {
          return Complain("written here, read", i, other, cell.read_pc);
        }
      }
    } else if (cell.read_clock != 0 && cell.reader != warp &&
               clock[cell.reader] < cell.read_clock) {
      return Complain("written here, read", i, cell.reader, cell.read_pc);
    }
    cell = {};
    cell.writer = static_cast<uint8_t>(warp);
    cell.write_clock = clock[At(warp)];
    cell.write_pc = pc;
  }
  return "";
}

}  // namespace sluice::cuda_double
