// Bugs planted in the kernels that ship: each must make an op test fail on the software device.
#pragma once

#include <string>
#include <vector>

namespace sluice::testing {

struct Mutant {
  const char* name;
  const char* file;    // in kernels/cuda
  const char* before;  // found exactly once
  const char* after;
  const char* tests;           // suite whose tests must notice
  const char* unit = nullptr;  // the .cu to compile; null: `file` itself, or the one of the suite
};

std::vector<Mutant> Mutants();

}  // namespace sluice::testing
