// The package itself, on the software device: what it links, how large it is, and that it goes on
// where it was cut short.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/gpu_check/progress.h"
#include "tests/launch/run_program.h"
#include "tests/support/source_path.h"

namespace sluice::testing {
namespace {

using launch::Outcome;
using launch::RunShell;
using ::testing::HasSubstr;
using ::testing::Not;
using State = Progress::State;

class GpuCheck : public ::testing::Test {
 protected:
  void SetUp() override { dir_ = launch::TestFolder(); }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  Outcome Run(const std::string& options) const {
    return RunShell("LD_LIBRARY_PATH=" SLUICE_CUDA_DOUBLE " " SLUICE_GPU_CHECK " --folder " + dir_ +
                    " " + options);
  }
  std::string ProgressFile() const { return dir_ + "/progress.txt"; }

  std::string dir_;
};

TEST_F(GpuCheck, LinksTheRuntimeLibraryAndTheSystemsAlone) {
  const Outcome outcome = RunShell("readelf -d " SLUICE_GPU_CHECK " | grep NEEDED");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const std::vector<std::string> known = {"libcudart.so.13", "libc.so.6",     "libm.so.6",
                                          "libdl.so.2",      "libpthread.so", "ld-linux"};
  std::istringstream lines(outcome.out);
  for (std::string line; std::getline(lines, line);) {
    const bool is_known = std::any_of(known.begin(), known.end(), [&](const std::string& name) {
      return line.find(name) != line.npos;
    });
    EXPECT_TRUE(is_known) << line;
  }
  EXPECT_THAT(outcome.out, HasSubstr("libcudart.so.13"));
}

// All that the target gpu_check_package puts into the folder.
TEST_F(GpuCheck, TheFolderIsBelow40MiB) {
  uintmax_t bytes = std::filesystem::file_size(SLUICE_GPU_CHECK);
  bytes += std::filesystem::file_size(SLUICE_CUDART);
  const std::string vectors = SourcePath("tests/golden/vectors");
  for (const auto& entry : std::filesystem::recursive_directory_iterator(vectors)) {
    if (entry.is_regular_file()) bytes += entry.file_size();
  }
  EXPECT_LT(bytes, uintmax_t{40} << 20);
  RecordProperty("bytes", std::to_string(bytes));
}

// The kernels' results to the bit, tensor cores included: only the last bit of the exponential in a
// softmax is modelled (PTX leaves it open), which one number of attention's shows.
TEST_F(GpuCheck, TheSoftwareDeviceGivesTheBitsOfAnH100) {
  const Outcome outcome = RunShell(
      "CUDA_DOUBLE_ACCUMULATOR=h100 LD_LIBRARY_PATH=" SLUICE_CUDA_DOUBLE " " SLUICE_GPU_CHECK
      " --folder " +
      dir_ + " --gtest_filter='*GoldenVectors*' --against " + SourcePath("tests/golden/h100"));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  std::istringstream lines(outcome.out);
  std::string name;
  int compared = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("golden 1 ", 0) == 0) name = line;
    if (line.find(" elements differ") == line.npos) continue;
    ++compared;
    const bool has_exponentials = name.find("attention_o") != name.npos;
    EXPECT_LE(std::stoi(line), has_exponentials ? 1 : 0) << name << ": " << line;
  }
  EXPECT_EQ(compared, 13);
}

TEST_F(GpuCheck, WritesVectorsAndComparesThemWithAnotherRuns) {
  const std::string filter = "--gtest_filter='*GoldenVectors.ProductIn*/cuda'";
  const Outcome first = Run(filter);
  ASSERT_EQ(first.exit_code, 0) << first.out << first.err;
  EXPECT_THAT(first.out, HasSubstr("golden 1 cuda_matmul_fp8 f32 [70, 144] "));
  EXPECT_THAT(first.out, HasSubstr("2 passed, 0 failed"));
  std::filesystem::remove(ProgressFile());
  const Outcome second = Run(filter + " --against " + dir_);
  ASSERT_EQ(second.exit_code, 0) << second.out << second.err;
  EXPECT_THAT(second.out, HasSubstr("  0 of 10080 elements differ"));
}

TEST_F(GpuCheck, ASoftwareDeviceHasNoSpeed) {
  const Outcome outcome = Run("--gtest_filter='*Speed.Products*:*MemorySpeed*'");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("fp8 tiny"));
  EXPECT_THAT(outcome.out, HasSubstr("requantise rows as columns"));
  EXPECT_THAT(outcome.out, Not(HasSubstr("TFLOP/s")));
}

TEST_F(GpuCheck, GoesOnWhereItWasCutShort) {
  const std::string filter = "--gtest_filter='*CastTest.*/cuda'";
  Progress before(ProgressFile());
  before.Write(State::kPassed, "Devices/CastTest.LengthsAndStrides/cuda");
  before.Write(State::kBegun, "Devices/CastTest.AddRoundsOnce/cuda");
  std::ofstream(ProgressFile(), std::ios::app) << "passed Devices/CastTest.Fill";  // cut off
  const Outcome outcome = Run(filter);
  EXPECT_EQ(outcome.exit_code, 1) << outcome.out;
  EXPECT_THAT(outcome.out, HasSubstr("did not come back in an earlier run: "
                                     "Devices/CastTest.AddRoundsOnce/cuda"));
  EXPECT_THAT(outcome.out, Not(HasSubstr("[ RUN      ] Devices/CastTest.LengthsAndStrides")));
  EXPECT_THAT(outcome.out, HasSubstr("[ RUN      ] Devices/CastTest.FillSetsEveryElement"));
  const Progress after(ProgressFile());
  EXPECT_EQ(after.Count(State::kPassed), 4);
  EXPECT_EQ(after.Count(State::kFailed), 1);
  EXPECT_EQ(after.Count(State::kBegun), 0);
  // All is known now.
  EXPECT_THAT(Run(filter).out, Not(HasSubstr("[ RUN")));
}

TEST_F(GpuCheck, AnUnknownOptionIsRefused) {
  const Outcome outcome = Run("--second 5");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("wanted [--folder DIR]"));
}

}  // namespace
}  // namespace sluice::testing
