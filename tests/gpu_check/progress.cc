#include "tests/gpu_check/progress.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <utility>

namespace sluice::testing {
namespace {

constexpr const char* kNames[] = {"begin ", "passed ", "failed "};

}  // namespace

Progress::Progress(std::string path) : path_(std::move(path)) {
  std::ifstream file(path_);
  uintmax_t whole = 0;  // bytes of whole lines
  for (std::string line; std::getline(file, line);) {
    if (file.eof()) {  // no end of line: cut off, and so it is here
      std::error_code ignored;
      std::filesystem::resize_file(path_, whole, ignored);
      break;
    }
    whole += line.size() + 1;
    for (int state = 0; state < 3; ++state) {
      const std::string name = kNames[state];
      if (line.compare(0, name.size(), name) != 0) continue;
      tests_[line.substr(name.size())] = static_cast<State>(state);
    }
  }
}

void Progress::Write(State state, const std::string& test) {
  tests_[test] = state;
  const std::string line = kNames[static_cast<int>(state)] + test + "\n";
  const int file = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  if (file < 0) return;
  if (write(file, line.data(), line.size()) == static_cast<ssize_t>(line.size())) fsync(file);
  close(file);
}

int Progress::Count(State state) const {
  return static_cast<int>(std::count_if(tests_.begin(), tests_.end(),
                                        [&](const auto& test) { return test.second == state; }));
}

}  // namespace sluice::testing
