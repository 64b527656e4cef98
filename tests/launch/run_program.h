// Runs a program as a user would.
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "gtest/gtest.h"

namespace sluice::launch {

struct Outcome {
  int exit_code = -1;  // -1: ended by a signal
  std::string out, err;
};

inline std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

// A folder of this test alone, empty.
inline std::string TestFolder() {
  std::string pattern = ::testing::TempDir() + "sluice-XXXXXX";
  return mkdtemp(pattern.data());
}

// A shell command; `input` is its standard input.
inline Outcome RunShell(const std::string& command, const std::string& input = "") {
  const std::string dir = TestFolder();
  std::ofstream(dir + "/in") << input;
  const int status = std::system(
      ("( " + command + " ) <" + dir + "/in >" + dir + "/out 2>" + dir + "/err").c_str());
  Outcome outcome = {.out = ReadAll(dir + "/out"), .err = ReadAll(dir + "/err")};
  if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
  EXPECT_EQ(std::system(("rm -r " + dir).c_str()), 0);
  return outcome;
}

// `sluice ARGUMENTS`.
inline Outcome RunSluice(const std::string& arguments, const std::string& input = "") {
  return RunShell(SLUICE_BINARY " " + arguments, input);
}

}  // namespace sluice::launch
