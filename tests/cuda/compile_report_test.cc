// The compiler's report on every kernel that ships: no stack frame, no spill, none of the messages
// that mean lost overlap, and no more registers or shared memory than the table allows.
#include "tests/cuda/compile_report.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

#include "tests/support/source_path.h"

namespace sluice::testing {
namespace {

std::string ReadText(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// Of all files of kernels/cuda together.
CompileReport ReportOfTheBuild() {
  std::string text;
  for (const auto& entry : std::filesystem::directory_iterator(SLUICE_REPORTS)) {
    if (entry.path().extension() == ".report") text += ReadText(entry.path().string());
  }
  return ParseCompileReport(text);
}

// Lines of "registers shared_bytes kernel"; # begins a comment.
std::map<std::string, KernelReport> Budgets() {
  std::map<std::string, KernelReport> budgets;
  std::istringstream lines(ReadText(SourcePath("tests/cuda/kernel_budgets.txt")));
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream fields(line);
    KernelReport budget;
    std::string name;
    fields >> budget.registers >> budget.shared_bytes;
    std::getline(fields >> std::ws, name);
    budgets[name] = budget;
  }
  return budgets;
}

TEST(CompileReport, NoKernelSpillsOrLosesOverlap) {
  const CompileReport report = ReportOfTheBuild();
  EXPECT_GE(report.kernels.size(), 30u) << "the reports were not found in " << SLUICE_REPORTS;
  for (const std::string& complaint : report.complaints) ADD_FAILURE() << complaint;
}

TEST(CompileReport, EveryKernelKeepsItsBudget) {
  const auto budgets = Budgets();
  const CompileReport report = ReportOfTheBuild();
  for (const auto& [name, kernel] : report.kernels) {
    const auto budget = budgets.find(name);
    if (budget == budgets.end()) {
      ADD_FAILURE() << "tests/cuda/kernel_budgets.txt lacks: " << kernel.registers << " "
                    << kernel.shared_bytes << " " << name;
      continue;
    }
    EXPECT_LE(kernel.registers, budget->second.registers) << name << ": registers";
    EXPECT_LE(kernel.shared_bytes, budget->second.shared_bytes) << name << ": shared memory";
  }
  for (const auto& [name, budget] : budgets) {
    EXPECT_TRUE(report.kernels.count(name)) << name << ": no such kernel";
  }
}

// 200 values that are all needed at the end do not fit into the 64 registers that 1024 threads
// leave.
constexpr char kSpillingKernel[] = R"(
__global__ void __launch_bounds__(1024) planted_kernel(float* x) {
  float v[200];
#pragma unroll
  for (int i = 0; i < 200; ++i) v[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 200; ++i) x[i * 1024 + threadIdx.x] = v[(i * 7) % 200] * v[199 - i];
}
)";

TEST(CompileReport, APlantedKernelThatSpillsIsFound) {
  const std::string base = (std::filesystem::path(SLUICE_REPORTS) / "planted").string();
  std::ofstream(base + ".cu") << kSpillingKernel;
  const std::string command = std::string(SLUICE_NVCC) + " -cubin -arch=sm_90a -Xptxas -v -o " +
                              base + ".cubin " + base + ".cu 2> " + base + ".text";
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  const CompileReport report = ParseCompileReport(ReadText(base + ".text"));
  ASSERT_EQ(report.kernels.count("planted_kernel"), 1u);
  EXPECT_GT(report.kernels.at("planted_kernel").spill_bytes, 0);
  EXPECT_FALSE(report.complaints.empty());
  for (const char* suffix : {".cu", ".cubin", ".text"}) std::filesystem::remove(base + suffix);
}

TEST(CompileReport, LostOverlapIsFound) {
  for (const char* line :
       {"ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are "
        "serialized due to ...",
        "ptxas info    : (C7508) setmaxnreg ignored", "ptxas warning : anything"}) {
    EXPECT_EQ(ParseCompileReport(line).complaints.size(), 1u) << line;
  }
}

}  // namespace
}  // namespace sluice::testing
