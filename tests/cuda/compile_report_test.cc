// The compiler's report on every kernel that ships: no stack frame, no spill, none of the messages
// that mean lost overlap, and no more registers or shared memory than the table allows.
#include "tests/cuda/compile_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/cuda/planted.h"
#include "tests/support/source_path.h"

namespace sluice::testing {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::StartsWith;

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

TEST(CompileReport, NoKernelSpillsOrLosesOverlap) {
  const CompileReport report = ReportOfTheBuild();
  EXPECT_GE(report.kernels.size(), 30u) << "the reports were not found in " << SLUICE_REPORTS;
  for (const std::string& complaint : report.complaints) ADD_FAILURE() << complaint;
}

TEST(CompileReport, EveryKernelKeepsItsBudget) {
  const Budgets budgets = ParseBudgets(ReadText(SourcePath("tests/cuda/kernel_budgets.txt")));
  for (const std::string& complaint : OverBudget(ReportOfTheBuild(), budgets)) {
    ADD_FAILURE() << "tests/cuda/kernel_budgets.txt: " << complaint;
  }
}

TEST(CompileReport, APlantedKernelThatSpillsIsFound) {
  const PlantedCubin planted("planted_spills", kSpillingKernel);
  ASSERT_TRUE(planted.is_compiled()) << planted.report();
  const CompileReport report = ParseCompileReport(planted.report());
  ASSERT_EQ(report.kernels.count("planted_kernel"), 1u);
  EXPECT_GT(report.kernels.at("planted_kernel").spill_bytes, 0);
  EXPECT_FALSE(report.complaints.empty());
}

// By what ptxas says of a kernel: one register more than allowed, one byte of shared memory more.
TEST(CompileReport, APlantedKernelAboveItsBudgetIsFound) {
  const PlantedCubin planted("planted_budget", R"(
__global__ void planted_kernel(float* x) {
  __shared__ float shared[64];
  shared[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = shared[63 - threadIdx.x];
}
)");
  ASSERT_TRUE(planted.is_compiled()) << planted.report();
  const CompileReport report = ParseCompileReport(planted.report());
  ASSERT_EQ(report.kernels.count("planted_kernel"), 1u);
  const KernelReport& kernel = report.kernels.at("planted_kernel");
  EXPECT_EQ(kernel.shared_bytes, 256);
  const auto complaints = [&](int registers, int shared_bytes, const std::string& name) {
    const Budgets budgets = ParseBudgets("# registers, bytes\n" + std::to_string(registers) + " " +
                                         std::to_string(shared_bytes) + " " + name + "\n");
    std::string all;
    for (const std::string& complaint : OverBudget(report, budgets)) all += complaint + "\n";
    return all;
  };
  EXPECT_EQ(complaints(kernel.registers, 256, "planted_kernel"), "");
  EXPECT_THAT(complaints(kernel.registers - 1, 256, "planted_kernel"),
              StartsWith("more registers than its budget: "));
  EXPECT_THAT(complaints(kernel.registers, 255, "planted_kernel"),
              StartsWith("more shared memory than its budget: "));
  EXPECT_THAT(complaints(kernel.registers, 256, "another_kernel"),
              AllOf(HasSubstr("no budget for: "), HasSubstr("no such kernel: another_kernel")));
}

TEST(CompileReport, APlantedKernelThatLosesOverlapIsFound) {
  const PlantedCubin planted("planted_serialised", kSerialisedKernel);
  ASSERT_TRUE(planted.is_compiled()) << planted.report();
  EXPECT_THAT(ParseCompileReport(planted.report()).complaints,
              Contains(HasSubstr("Potential Performance Loss")))
      << planted.report();
}

// What uses nothing of Hopper's can become a build for 8.0 and 8.9: it compiles for them.
TEST(CompileReport, PortableKernelsCompileForEarlierGpus) {
  struct Unit {
    const char *file, *architecture;
  };
  for (const auto& [file, architecture] :
       {Unit{"attention_mma.cu", "compute_80"}, Unit{"attention_mma_backward.cu", "compute_80"},
        Unit{"matmul.cu", "compute_80"}, Unit{"fp8_matmul.cu", "compute_89"}}) {
    const std::string ptx = std::string(SLUICE_REPORTS) + "/portable.ptx";
    const std::string command = std::string(SLUICE_NVCC) +
                                " -std=c++20 -O1 --fmad=false -ptx -arch=" + architecture + " -I" +
                                SourcePath("") + " -o " + ptx + " " +
                                SourcePath(std::string("kernels/cuda/") + file);
    EXPECT_EQ(std::system(command.c_str()), 0) << file << " for " << architecture;
    EXPECT_THAT(ReadText(ptx), HasSubstr("mma.sync")) << file;
    std::filesystem::remove(ptx);
  }
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
