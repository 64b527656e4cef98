// A kernel launch: every block of the grid.
#pragma once

#include <string>

#include "tests/cuda_double/exec/block.h"

namespace sluice::cuda_double {

inline constexpr unsigned kMostThreads = 1024;          // of a block
inline constexpr size_t kMostSharedBytes = 227 * 1024;  // of a block, on sm_90

// Runs the launch; "" or the first error. The kernel must have been decoded.
std::string RunLaunch(const Launch& launch);

}  // namespace sluice::cuda_double
