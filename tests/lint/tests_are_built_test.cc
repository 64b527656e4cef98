// A test that is not built proves nothing: every *_test.cc and *_bench.cc lies in a folder that
// CMake globs.
#include <set>
#include <string>

#include "gtest/gtest.h"
#include "tests/lint/source_files.h"

namespace sluice {
namespace {

// The X of every `call(X ...)` in a CMake file.
std::set<std::string> FirstArguments(const SourceFile& cmake, const std::string& call) {
  std::set<std::string> arguments;
  for (const std::string& line : cmake.lines) {
    const size_t start = line.find_first_not_of(' ');
    if (start == std::string::npos || line.compare(start, call.size() + 1, call + "(") != 0)
      continue;
    const size_t from = start + call.size() + 1;
    arguments.insert(line.substr(from, line.find_first_of(" )", from) - from));
  }
  return arguments;
}

bool Globs(const std::string& folder, const std::string& pattern) {
  for (const std::string& line : ReadSourceFile("tests/" + folder + "/CMakeLists.txt").lines) {
    if (line.find("GLOB") != std::string::npos && line.find(pattern) != std::string::npos)
      return true;
  }
  return false;
}

TEST(TestsAreBuilt, EveryTestFileLiesInAGlobbedFolder) {
  const SourceFile cmake = ReadSourceFile("tests/CMakeLists.txt");
  const std::set<std::string> suites = FirstArguments(cmake, "sluice_test");
  const std::set<std::string> folders = FirstArguments(cmake, "add_subdirectory");
  ASSERT_TRUE(suites.count("lint")) << "this very folder was not found";
  for (const SourceFile& file : ReadSourceFiles({"tests"})) {
    const std::string folder = file.folder().substr(std::string("tests").size());
    const std::string name = folder.empty() ? "" : folder.substr(1);
    if (file.has_suffix("_test.cc")) {
      EXPECT_TRUE(suites.count(name) || (folders.count(name) && Globs(name, "*_test.cc")))
          << file.path << ": no sluice_test(" << name << " ...) in tests/CMakeLists.txt";
    }
    if (file.has_suffix("_bench.cc")) {
      EXPECT_TRUE(folders.count(name) && Globs(name, "*_bench.cc")) << file.path << " is not built";
    }
  }
  for (const SourceFile& file :
       ReadSourceFiles({"kernels", "parallel", "data", "checkpoints", "trainer", "launch"})) {
    EXPECT_FALSE(file.has_suffix("_test.cc")) << file.path << ": tests live in tests/";
  }
}

}  // namespace
}  // namespace sluice
