// One thread block: its warps, their registers, shared memory, barriers, and the order in which the
// warps run.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/cuda_double/check/global_memory.h"
#include "tests/cuda_double/check/shared_races.h"
#include "tests/cuda_double/exec/bulk_copy.h"
#include "tests/cuda_double/exec/mbarrier.h"
#include "tests/cuda_double/exec/products.h"
#include "tests/cuda_double/ptx/ir.h"

namespace sluice::cuda_double {

inline constexpr int kLanes = 32;

struct Extent {
  unsigned x = 1, y = 1, z = 1;
};

// How the tensor instructions add.
enum class Accumulator : uint8_t {
  kExact,  // exact products and sums, rounded once to FP32
  kH100,   // with the bits of an H100 (tensor_sum.h)
};

// When asynchronous work is done: at issue, at the latest legal moment, or by the seed.
enum class Timing : uint8_t { kEarly, kLate, kRandom };

struct Launch {
  const Module* module = nullptr;
  const Kernel* kernel = nullptr;
  Extent grid, block;
  size_t dynamic_shared_bytes = 0;
  std::vector<uint8_t> parameters;
  GlobalMemory* memory = nullptr;
  OpId op = 0;
  uint32_t seed = 1;
  Timing timing = Timing::kRandom;
  Accumulator accumulator = Accumulator::kExact;
};

struct Warp {
  int index = 0;
  uint32_t existing = 0;  // lanes that have a thread
  uint32_t live = 0;      // and have not exited
  bool is_converged = true;
  int pc = 0;                     // if converged
  std::array<int, kLanes> pcs{};  // if not
  bool is_waiting = false;        // at a block barrier
  int64_t mbarrier = -1;          // whose phase it waits for; -1: none
  uint32_t mbarrier_parity = 0;
  uint32_t epoch = 0;  // barriers that order its lanes' accesses to shared memory
  Knowledge known;
  ProductQueue products;
  std::vector<uint64_t> rows;  // [row][lane]
  std::array<uint64_t, kLanes> sink{};

  uint64_t* Row(int row) { return rows.data() + static_cast<size_t>(row) * kLanes; }
};

class Block {
 public:
  Block(const Launch& launch, Extent index, uint32_t number);

  // Runs to the end; "" or the first error with kernel, place in PTX and source, block, warp, lane.
  std::string Run();

  // For the handlers of instructions:
  void Fail(const Context& context, int lane, const std::string& what);
  bool has_failed() const { return !error_.empty(); }
  // The bytes behind an address, after the checks that this access needs; null after Fail.
  uint8_t* Access(const Context& context, int lane, uint64_t address, size_t bytes,
                  AccessKind kind);
  // threads 0: all. A warp that does not wait goes on; what it has done so far, those who wait see.
  void ArriveAtBarrier(const Context& context, int barrier, unsigned threads, bool waits);
  // What the warp has seen so far, for others; what it does from here on is not part of it.
  Knowledge Release(Warp& warp) const;
  Mbarriers& mbarriers() { return mbarriers_; }
  // The lanes of the mask run the instruction again when that phase is over.
  void WaitForPhase(const Context& context, uint64_t mbarrier, uint32_t parity);
  // Checks the bytes that the copy will write; they arrive when `timing` says.
  void Issue(const Context& context, const BulkCopy& copy);
  // Checks bytes that the tensor core will read for the warp, in its open group.
  bool CheckTensorRead(const Context& context, uint64_t offset, size_t bytes);
  const Launch& launch() const { return launch_; }
  std::vector<uint8_t>& shared() { return shared_; }
  const std::vector<uint8_t>& shared() const { return shared_; }
  std::mt19937& random() { return random_; }
  Accessor AccessorOf(const Warp& warp, int lane = -1) const {
    return {.op = launch_.op,
            .block = number_ + 1,
            .warp = warp.index,
            .clock = &warp.known.clock,
            .lane = lane,
            .epoch = warp.epoch};
  }

 private:
  struct Barrier {
    unsigned arrived = 0;
    std::vector<int> warps;   // that wait
    std::vector<int> others;  // that arrived and went on
    Knowledge known_by_others;
  };
  void StartWarp(Warp& warp);
  uint64_t ValueOf(Special special, const Warp& warp, int lane) const;
  bool RunSome(Warp& warp);
  void Step(Warp& warp);
  void Branch(Warp& warp, uint32_t group, uint32_t taken, int pc);
  void Advance(Warp& warp, uint32_t group, int pc);
  void Complete(int barrier);
  void CompleteIfAllArrived();
  bool IsBlocked(Warp& warp) const;
  void RunCopy(size_t index);
  bool RunCopiesAtRandom();  // whether there was one
  void FailAt(int warp, int lane, int pc, const std::string& what);
  std::string Place(int pc) const;
  std::string Deadlock() const;

  const Launch& launch_;
  const Extent index_;
  const uint32_t number_;
  const unsigned num_threads_;
  std::vector<Warp> warps_;
  std::vector<uint8_t> shared_;
  SharedRaces races_;
  std::vector<uint8_t> local_;
  std::map<int, Barrier> barriers_;
  Mbarriers mbarriers_;
  std::vector<BulkCopy> copies_;  // under way
  std::mt19937 random_;
  uint64_t steps_ = 0;
  std::string error_;
};

// What a handler works on: its operands are rows of `warp`, for the lanes of `mask`.
struct Context {
  Block& block;
  Warp& warp;
  const Instruction& instruction;
  uint32_t mask;
  int pc;

  const uint64_t* Source(size_t operand) const {
    return warp.Row(instruction.operands[operand].row);
  }
  uint64_t* Destination(size_t operand) const {
    const Operand& to = instruction.operands[operand];
    return to.kind == Operand::Kind::kSink ? warp.sink.data() : warp.Row(to.row);
  }
};

template <typename F>
void ForLanes(uint32_t mask, const F& f) {
  if (mask == 0xffffffffu) {
    for (int lane = 0; lane < kLanes; ++lane) f(lane);
    return;
  }
  for (; mask != 0; mask &= mask - 1) f(__builtin_ctz(mask));
}

inline int FirstLane(uint32_t mask) { return mask == 0 ? 0 : __builtin_ctz(mask); }

}  // namespace sluice::cuda_double
