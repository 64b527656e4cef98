// Kernels with faults that the tests of the compiler's report and of machine code must find.
#pragma once

#include <string>

namespace sluice::testing {

// 200 values that are all needed at the end do not fit into the 64 registers that 1024 threads
// leave.
extern const char kSpillingKernel[];
// A sum is changed while a wgmma is adding to it, so ptxas lets each end before it goes on.
extern const char kSerialisedKernel[];

// `source` compiled for sm_90a, as long as this lives.
class PlantedCubin {
 public:
  PlantedCubin(const std::string& name, const char* source);
  ~PlantedCubin();
  PlantedCubin(const PlantedCubin&) = delete;
  PlantedCubin& operator=(const PlantedCubin&) = delete;

  bool is_compiled() const { return is_compiled_; }
  const std::string& report() const { return report_; }  // what ptxas says
  std::string path() const { return base_ + ".cubin"; }

 private:
  std::string base_, report_;
  bool is_compiled_ = false;
};

}  // namespace sluice::testing
