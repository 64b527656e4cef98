#include "tests/cuda_double/check/shared_races.h"

namespace sluice::cuda_double {
namespace {

size_t At(int agent) { return static_cast<size_t>(agent); }

std::string NameOf(int agent) {
  if (agent >= kCopyAgents) return "an asynchronous copy";
  if (agent >= kTensorAgents)
    return "the tensor core for warp " + std::to_string(agent - kTensorAgents);
  return "warp " + std::to_string(agent);
}

}  // namespace

SharedRaces::SharedRaces(size_t bytes, size_t granule)
    : granule_(granule), cells_((bytes + granule - 1) / granule) {}

std::string SharedRaces::Complain(const char* what, size_t cell, int agent, int pc) {
  conflicting_pc_ = pc;
  return "shared memory at offset " + std::to_string(cell * granule_) + ": " + what + " by " +
         NameOf(agent) + " with no barrier in between";
}

void SharedRaces::NoteReader(Cell& cell, int agent, const Clock& clock, int pc) {
  if (cell.readers >= 0) {
    many_[static_cast<size_t>(cell.readers)][At(agent)] = clock[At(agent)];
  } else if (cell.read_clock != 0 && cell.reader != agent &&
             clock[cell.reader] < cell.read_clock) {  // neither comes first: remember both
    if (unused_.empty()) {
      unused_.push_back(static_cast<int32_t>(many_.size()));
      many_.emplace_back();
    }
    cell.readers = unused_.back();
    unused_.pop_back();
    Clock& readers = many_[static_cast<size_t>(cell.readers)];
    readers = {};
    readers[cell.reader] = cell.read_clock;
    readers[At(agent)] = clock[At(agent)];
  }
  cell.reader = static_cast<uint8_t>(agent);
  cell.read_clock = clock[At(agent)];
  cell.read_pc = pc;
}

std::string SharedRaces::Read(size_t offset, size_t bytes, int agent, const Clock& clock, int pc) {
  for (size_t i = offset / granule_; i * granule_ < offset + bytes; ++i) {
    Cell& cell = cells_[i];
    if (cell.write_clock == 0) {
      conflicting_pc_ = -1;
      return "shared memory at offset " + std::to_string(i * granule_) + " was never written";
    }
    if (cell.writer != agent && clock[cell.writer] < cell.write_clock) {
      return Complain("read here, written", i, cell.writer, cell.write_pc);
    }
    NoteReader(cell, agent, clock, pc);
  }
  return "";
}

std::string SharedRaces::Write(size_t offset, size_t bytes, int agent, const Clock& clock,
                               const Clock& seen, int pc) {
  for (size_t i = offset / granule_; i * granule_ < offset + bytes; ++i) {
    Cell& cell = cells_[i];
    if (cell.write_clock != 0 && cell.writer != agent && seen[cell.writer] < cell.write_clock) {
      return Complain("written here and", i, cell.writer, cell.write_pc);
    }
    if (cell.readers >= 0) {
      const Clock& readers = many_[static_cast<size_t>(cell.readers)];
      for (int other = 0; other < kMaxAgents; ++other) {
        if (other != agent && clock[At(other)] < readers[At(other)]) {
          return Complain("written here, read", i, other, cell.read_pc);
        }
      }
    } else if (cell.read_clock != 0 && cell.reader != agent &&
               clock[cell.reader] < cell.read_clock) {
      return Complain("written here, read", i, cell.reader, cell.read_pc);
    }
    if (cell.readers >= 0) unused_.push_back(cell.readers);
    cell = {};
    cell.writer = static_cast<uint8_t>(agent);
    cell.write_clock = clock[At(agent)];
    cell.write_pc = pc;
  }
  return "";
}

}  // namespace sluice::cuda_double
