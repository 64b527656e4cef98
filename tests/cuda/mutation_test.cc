// Compiles each mutant to PTX, lets the software device run it in place of the kernel that ships,
// and expects the op tests to fail, by what it computes and not because it cannot be run. A quarter
// of the mutants a run: SLUICE_MUTATION=0..3 chooses it, `all` is all, and without it the day does.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

#include "tests/cuda/mutants.h"
#include "tests/support/source_path.h"

namespace sluice::testing {
namespace {

namespace fs = std::filesystem;
constexpr size_t kParts = 4;

std::string ReadText(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// `file` with `before` replaced by `after`; fails the test unless it is there exactly once.
std::string Mutated(const Mutant& mutant) {
  std::string text = ReadText(SourcePath(std::string("kernels/cuda/") + mutant.file));
  const std::string before = mutant.before;
  const size_t at = text.find(before);
  if (at == text.npos || text.find(before, at + 1) != text.npos) {
    ADD_FAILURE() << mutant.name << ": found not once in " << mutant.file << ": " << before;
    return "";
  }
  return text.replace(at, before.size(), mutant.after);
}

// What to compile: by the suite's name, RmsNormTest -> rms_norm.cu, if the mutant does not say.
std::string KernelFileOf(const Mutant& mutant) {
  if (mutant.unit != nullptr) return mutant.unit;
  std::string file = mutant.file;
  if (file.size() > 3 && file.substr(file.size() - 3) == ".cu") return file;
  const std::string suite = mutant.tests;
  file.clear();
  for (char c : suite.substr(0, suite.size() - std::string("Test").size())) {
    if (std::isupper(static_cast<unsigned char>(c)) && !file.empty()) file += '_';
    file += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  if (file == "adam_w") return "adamw.cu";
  if (file == "matmul_device") return "matmul.cu";
  return file + ".cu";
}

int Run(const std::string& command, const fs::path& log) {
  return std::system((command + " > " + log.string() + " 2>&1").c_str());
}

// The exit code of the suite's tests with these kernels. The products by mma.sync are run where
// Hopper's own are not chosen in their place.
int RunTests(const std::string& suite, const fs::path& ptx, const fs::path& log) {
  const bool by_mma = suite == "MatmulDeviceTest" || suite == "Fp8MatmulTest";
  const std::string filter = suite == "HopperMatmulTest"  // its cases are operands, not devices
                                 ? "*/" + suite + ".*"
                                 : "Devices/" + suite + ".*/cuda" + (by_mma ? "_mma" : "");
  return Run("CUDA_DOUBLE_PTX=" + ptx.string() + " " + SLUICE_KERNELS_CUDA_TESTS +
                 " --gtest_fail_fast --gtest_filter='" + filter + "'",
             log);
}

// A test that failed, and neither a binary that could not run at all nor PTX that the software
// device could not.
bool SaysThatATestFailed(const fs::path& log) {
  const std::string text = ReadText(log);
  if (text.find("cuda double: cannot load") != text.npos) return false;
  return text.find("Failure") != text.npos || text.find("CHECK failed") != text.npos;
}

// PTX of the suite's kernel file, with the file of the mutant found first.
bool Compile(const fs::path& folder, const std::string& kernel_file, const fs::path& ptx) {
  const fs::path mutated = folder / "kernels/cuda" / kernel_file;
  const std::string source =
      fs::exists(mutated) ? mutated.string() : SourcePath("kernels/cuda/" + kernel_file);
  const int code =
      Run(std::string(SLUICE_NVCC) +
              " -std=c++20 -O3 --fmad=false -lineinfo -arch=compute_90a -ptx -I" + folder.string() +
              " -I" + SourcePath("") + " -o " + ptx.string() + " " + source,
          folder / "nvcc.log");
  if (code != 0) ADD_FAILURE() << ReadText(folder / "nvcc.log");
  return code == 0;
}

bool IsOfThisRun(size_t index) {
  const char* chosen = std::getenv("SLUICE_MUTATION");
  if (chosen != nullptr && std::string(chosen) == "all") return true;
  const auto day = static_cast<size_t>(std::time(nullptr) / 86400);
  const size_t part = chosen != nullptr ? static_cast<size_t>(std::atoi(chosen)) : day % kParts;
  return index % kParts == part;
}

TEST(Mutation, EveryPlantedBugIsCaught) {
  const fs::path root = fs::path(SLUICE_MUTATION_FOLDER);
  size_t tried = 0, caught = 0, index = 0;
  for (const Mutant& mutant : Mutants()) {
    if (!IsOfThisRun(index++)) continue;
    const fs::path folder = root / mutant.name, ptx = folder / "mutant.ptx";
    fs::remove_all(folder);
    fs::create_directories(folder / "kernels/cuda");
    const std::string text = Mutated(mutant);
    if (text.empty()) continue;
    std::ofstream(folder / "kernels/cuda" / mutant.file) << text;
    if (!Compile(folder, KernelFileOf(mutant), ptx)) continue;
    ++tried;
    const bool is_caught = RunTests(mutant.tests, ptx, folder / "tests.log") != 0 &&
                           SaysThatATestFailed(folder / "tests.log");
    if (is_caught) ++caught;
    EXPECT_TRUE(is_caught) << mutant.name << " went unnoticed by " << mutant.tests;
  }
  std::cout << "mutants caught: " << caught << " of " << tried << " (of " << Mutants().size()
            << " in all)\n";
  EXPECT_GT(tried, 0u);
}

TEST(Mutation, TheDocumentCountsThem) {
  const std::string count =
      std::to_string(Mutants().size()) + " of them in `tests/cuda/mutants.cc`";
  EXPECT_NE(ReadText(SourcePath("docs/kernels.md")).find(count), std::string::npos) << count;
}

// What a mutant's failure means: the same path with the kernel unchanged passes.
TEST(Mutation, AnUnchangedKernelPasses) {
  const fs::path folder = fs::path(SLUICE_MUTATION_FOLDER) / "Unchanged";
  fs::create_directories(folder);
  if (!Compile(folder, "cast.cu", folder / "mutant.ptx")) return;
  EXPECT_EQ(RunTests("CastTest", folder / "mutant.ptx", folder / "tests.log"), 0)
      << ReadText(folder / "tests.log");
}

// What would count as caught, whatever the mutant is, if every failure did.
TEST(Mutation, PtxThatCannotBeLoadedIsNotCaught) {
  const fs::path folder = fs::path(SLUICE_MUTATION_FOLDER) / "Unloadable";
  fs::create_directories(folder);
  const fs::path ptx = folder / "mutant.ptx", log = folder / "tests.log";
  if (!Compile(folder, "cast.cu", ptx)) return;
  const std::string text = ReadText(ptx), store = "st.global";
  // In every kernel of the file.
  std::string spoiled;
  for (size_t at = 0; at < text.size();) {
    const size_t found = std::min(text.find(store, at), text.size());
    spoiled += text.substr(at, found - at) + (found < text.size() ? "st.frobnicate" : "");
    at = found + store.size();
  }
  std::ofstream(ptx) << spoiled;
  EXPECT_NE(RunTests("CastTest", ptx, log), 0);
  EXPECT_FALSE(SaysThatATestFailed(log)) << ReadText(log);
}

}  // namespace
}  // namespace sluice::testing
