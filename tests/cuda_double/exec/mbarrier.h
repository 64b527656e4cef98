// The mbarriers of a block (PTX ISA 9.0, section 9.7.13.15): each counts arrivals and announced
// bytes of its phase, and hands on what those who arrived have seen.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "tests/cuda_double/check/shared_races.h"

namespace sluice::cuda_double {

// What an agent has seen, and which of it asynchronous units see too: what is past a proxy fence.
struct Knowledge {
  Clock clock{}, fenced{};
};

class Mbarriers {
 public:
  // Each returns "" or which rule is broken. `at`: offset in shared memory.
  std::string Init(uint64_t at, uint32_t arrivals, int warp, uint32_t warp_clock);
  // The bytes are announced before the arrival counts.
  std::string Arrive(uint64_t at, uint32_t arrivals, int64_t bytes, const Knowledge& of);
  // A copy will report here; its agent, and its number among that agent's copies.
  std::string NoteCopy(uint64_t at, int& agent, uint32_t& number);
  void CompleteCopy(uint64_t at, int64_t bytes, int agent, uint32_t number);

  bool IsKnown(uint64_t at) const { return barriers_.count(at) != 0; }
  // Whether the initialisation comes before what `warp` does, and before what an asynchronous unit
  // does for it. The barrier must be known.
  bool IsVisible(uint64_t at, int warp, const Clock& clock) const;
  bool IsFenced(uint64_t at, const Clock& fenced) const;
  // Whether the phase of that parity is over; the barrier must be known.
  bool IsPast(uint64_t at, uint32_t parity) const { return barriers_.at(at).phase != parity; }
  // What all who arrived in the last phase that is over had seen.
  const Knowledge& LastPhase(uint64_t at) const { return barriers_.at(at).last; }

 private:
  struct Barrier {
    uint32_t arrivals = 0, missing = 0;  // of a phase; in this one
    int64_t bytes = 0;                   // announced and not yet copied
    uint32_t phase = 0;                  // its parity
    int agent = 0, maker = 0;            // its copies'; the warp that initialised it
    uint32_t made = 0;                   // the maker's clock then
    uint32_t num_copies = 0;
    Knowledge arriving, last;
  };
  static void EndPhaseIfComplete(Barrier& barrier);

  std::map<uint64_t, Barrier> barriers_;
};

}  // namespace sluice::cuda_double
