// What ptxas says about the kernels that ship, and what is wrong with it.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace sluice::testing {

struct KernelReport {
  int stack_bytes = 0, spill_bytes = 0, registers = 0, shared_bytes = 0;
};

struct CompileReport {
  std::map<std::string, KernelReport> kernels;  // by the source's name: "rms_norm_kernel<float>"
  std::vector<std::string> complaints;  // stack frames, spills, lost wgmma overlap, warnings
};

// Of the text that `nvcc -Xptxas -v` writes.
CompileReport ParseCompileReport(const std::string& text);

using Budgets = std::map<std::string, KernelReport>;
// Lines of "registers shared_bytes kernel"; # begins a comment.
Budgets ParseBudgets(const std::string& text);
// Kernels that need more than their budget or have none, and budgets of no kernel, a line each.
std::vector<std::string> OverBudget(const CompileReport& report, const Budgets& budgets);

}  // namespace sluice::testing
