// Runs PTX written by hand, for the double's own tests.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/cuda_double/check/global_memory.h"
#include "tests/cuda_double/check/op_clocks.h"
#include "tests/cuda_double/exec/block.h"
#include "tests/cuda_double/ptx/ir.h"

namespace sluice::cuda_double {

// A kernel `test` whose parameters are p0, p1, ... of 64 bits. The body finds registers %p0..9,
// %h0..9 (16 bits), %r0..19, %rd0..19, %f0..9 and %fd0..9.
class PtxProgram {
 public:
  // `declarations` go in front of the kernel.
  explicit PtxProgram(const std::string& body, int num_parameters = 0,
                      const std::string& declarations = "");
  const std::string& error() const { return error_; }  // of parsing and decoding

  Launch launch;  // to be adjusted before Run
  // "" or what went wrong.
  std::string Run(const std::vector<uint64_t>& parameters = {});
  // Device memory holding these bytes.
  uint64_t Allocate(size_t bytes);
  uint64_t AllocateAndFill(const std::vector<uint32_t>& words);
  uint32_t WordAt(uint64_t address) const;
  GlobalMemory& memory() { return memory_; }
  OpClocks& clocks() { return clocks_; }

 private:
  std::string error_;
  Module module_;
  OpClocks clocks_;
  GlobalMemory memory_{clocks_};
};

// Whether a report names all of these.
inline ::testing::AssertionResult Says(const std::string& report,
                                       const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    if (report.find(part) == std::string::npos) {
      return ::testing::AssertionFailure() << "'" << report << "' lacks '" << part << "'";
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace sluice::cuda_double
