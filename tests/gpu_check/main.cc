// gpu_check: the CUDA op tests as one program for a machine with a GPU and nothing else.
//   ./gpu_check [--folder DIR] [--against DIR] [--seconds N] [options of GoogleTest]
// Run it again after it was cut short: tests that have passed or failed are not run again, and one
// that never came back is named and left out. Exit code 0: all have passed; 1: some have not; 3:
// the time is up and there is more to run.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/gpu_check/gpu_check.h"
#include "tests/gpu_check/progress.h"

namespace sluice::testing {
namespace {

using State = Progress::State;
using Clock = std::chrono::steady_clock;

constexpr unsigned kSecondsPerTest = 120;  // a test that takes longer hangs
constexpr int kMoreToRun = 3;

struct Options {
  std::string folder = "gpu_check_results", against;
  int seconds = 480;
};
Options& TheOptions() {
  static Options options;
  return options;
}

std::string NameOf(const ::testing::TestInfo& test) {
  return std::string(test.test_suite_name()) + "." + test.name();
}

class Recorder : public ::testing::EmptyTestEventListener {
 public:
  Recorder(Progress& progress, int seconds)
      : progress_(progress), end_(Clock::now() + std::chrono::seconds(seconds)) {}

 private:
  void OnTestStart(const ::testing::TestInfo& test) override {
    if (Clock::now() >= end_) {
      std::printf("time is up: run the same command again to go on\n");
      std::fflush(stdout);
      std::_Exit(kMoreToRun);
    }
    progress_.Write(State::kBegun, NameOf(test));
    alarm(kSecondsPerTest);  // its default action ends the process
  }
  void OnTestEnd(const ::testing::TestInfo& test) override {
    alarm(0);
    progress_.Write(test.result()->Failed() ? State::kFailed : State::kPassed, NameOf(test));
  }

  Progress& progress_;
  const Clock::time_point end_;
};

// Leaves out what the file knows; names what did not come back, which counts as failed.
void LeaveOut(Progress& progress) {
  std::string names;
  const auto known = progress.tests();
  for (const auto& [name, state] : known) {
    names += (names.empty() ? "" : ":") + name;
    if (state != State::kBegun) continue;
    std::printf("did not come back in an earlier run: %s\n", name.c_str());
    progress.Write(State::kFailed, name);
  }
  if (names.empty()) return;
  std::string filter = GTEST_FLAG_GET(filter);
  filter += filter.find('-') == std::string::npos ? "-" : ":";
  GTEST_FLAG_SET(filter, filter + names);
}

bool Parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (i + 1 == argc) return false;
    const std::string value = argv[++i];
    if (flag == "--folder") {
      options.folder = value;
    } else if (flag == "--against") {
      options.against = value;
    } else if (flag == "--seconds" && std::atoi(value.c_str()) > 0) {
      options.seconds = std::atoi(value.c_str());
    } else {
      return false;
    }
  }
  return true;
}

int Main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  Options& options = TheOptions();
  if (!Parse(argc, argv, options)) {
    std::fprintf(stderr, "gpu_check: wanted [--folder DIR] [--against DIR] [--seconds N]\n");
    return 2;
  }
  std::error_code error;
  std::filesystem::create_directories(options.folder + "/golden", error);
  if (error) {
    std::fprintf(stderr, "gpu_check: %s: %s\n", options.folder.c_str(), error.message().c_str());
    return 2;
  }
  if (IsSoftwareDevice()) std::printf("on a device made of software: nothing here is a speed\n");
  Progress progress(options.folder + "/progress.txt");
  LeaveOut(progress);
  ::testing::UnitTest::GetInstance()->listeners().Append(new Recorder(progress, options.seconds));
  const int result = RUN_ALL_TESTS();
  const int failed = progress.Count(State::kFailed);
  std::printf("gpu_check: %d passed, %d failed; %s holds vectors and progress\n",
              progress.Count(State::kPassed), failed, options.folder.c_str());
  for (const auto& [name, state] : progress.tests()) {
    if (state == State::kFailed) std::printf("  failed: %s\n", name.c_str());
  }
  return failed > 0 || result != 0 ? 1 : 0;
}

}  // namespace

const std::string& ResultsFolder() { return TheOptions().folder; }
const std::string& AgainstFolder() { return TheOptions().against; }
bool IsSoftwareDevice() { return dlsym(RTLD_DEFAULT, "cuda_double_reset") != nullptr; }

}  // namespace sluice::testing

int main(int argc, char** argv) { return sluice::testing::Main(argc, argv); }
