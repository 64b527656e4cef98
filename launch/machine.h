// The machine a rank runs on: cores, memory, where the program lies.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace sluice::launch {

// Cores this process may run on (affinity mask).
int UsableCores();

// Threads for one of `ranks_on_host` ranks: together they never exceed the usable cores, and each
// has one at least.
int ThreadsPerRank(int ranks_on_host);

// Bytes, of the machine or of the container when that has less; what the kernel keeps of files and
// gives back when asked counts as available. 0 if unknown.
struct MemorySize {
  int64_t total_bytes = 0;
  int64_t available_bytes = 0;
};
// `root`: where /proc and /sys are looked for.
MemorySize ReadMemorySize(const std::string& root = "");

std::string HostName();

// The folder of the bundled sample text: beside the binary (../data/samples), installed
// (../share/sluice/samples) or in the source tree. NOT_FOUND names where it was looked for.
absl::StatusOr<std::string> SampleTextDir();

}  // namespace sluice::launch
