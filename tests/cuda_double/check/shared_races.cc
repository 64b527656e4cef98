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

std::string SharedRaces::LaneConflict(const Cell& cell, size_t index, const SharedAccess& access,
                                      bool is_write) {
  const auto is_other = [&](bool is_noted, int agent, int lane, uint32_t epoch) {
    return is_noted && access.lane >= 0 && lane >= 0 && agent == access.agent &&
           epoch == access.epoch && lane != access.lane;
  };
  const auto complain = [&](const char* what, int lane, int pc) {
    conflicting_pc_ = pc;
    const std::string who = lane == kManyLanes ? "several lanes" : "lane " + std::to_string(lane);
    return "shared memory at offset " + std::to_string(index * granule_) + ": " + what + " by " +
           who + " of the same warp with no warp barrier in between";
  };
  if (is_other(cell.write_clock != 0, cell.writer, cell.write_lane, cell.write_epoch)) {
    return complain(is_write ? "written here and" : "read here, written", cell.write_lane,
                    cell.write_pc);
  }
  if (is_write && is_other(cell.read_clock != 0, cell.reader, cell.read_lane, cell.read_epoch)) {
    return complain("written here, read", cell.read_lane, cell.read_pc);
  }
  return "";
}

void SharedRaces::NoteReader(Cell& cell, const SharedAccess& access, const Clock& clock) {
  const int agent = access.agent;
  const bool is_same_epoch = cell.read_clock != 0 && cell.reader == agent &&
                             cell.read_epoch == access.epoch && cell.read_lane != access.lane;
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
  cell.read_pc = access.pc;
  cell.read_epoch = access.epoch;
  cell.read_lane = is_same_epoch ? kManyLanes : static_cast<int8_t>(access.lane);
}

std::string SharedRaces::Read(const SharedAccess& access, const Clock& clock) {
  const int agent = access.agent;
  for (size_t i = access.offset / granule_; i * granule_ < access.offset + access.bytes; ++i) {
    Cell& cell = cells_[i];
    if (cell.write_clock == 0) {
      conflicting_pc_ = -1;
      return "shared memory at offset " + std::to_string(i * granule_) + " was never written";
    }
    if (cell.writer != agent && clock[cell.writer] < cell.write_clock) {
      return Complain("read here, written", i, cell.writer, cell.write_pc);
    }
    std::string why = LaneConflict(cell, i, access, /*is_write=*/false);
    if (!why.empty()) return why;
    NoteReader(cell, access, clock);
  }
  return "";
}

std::string SharedRaces::Write(const SharedAccess& access, const Clock& clock, const Clock& seen) {
  const int agent = access.agent;
  for (size_t i = access.offset / granule_; i * granule_ < access.offset + access.bytes; ++i) {
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
    std::string why = LaneConflict(cell, i, access, /*is_write=*/true);
    if (!why.empty()) return why;
    if (cell.readers >= 0) unused_.push_back(cell.readers);
    cell = {};
    cell.writer = static_cast<uint8_t>(agent);
    cell.write_clock = clock[At(agent)];
    cell.write_pc = access.pc;
    cell.write_epoch = access.epoch;
    cell.write_lane = static_cast<int8_t>(access.lane);
  }
  return "";
}

}  // namespace sluice::cuda_double
