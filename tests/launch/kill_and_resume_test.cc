// A rank dies without a word, at any moment: the run that is started again ends as if it had not.
// Half of the trials in FP32, half in BF16.
#include <array>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/core/philox.h"
#include "tests/launch/running_program.h"
#include "tests/launch/tiny_run.h"

namespace sluice::launch {
namespace {

constexpr int kSteps = 40, kKills = 20;
// A run may end before its kill comes; such a trial does not count.
constexpr int kMostTrials = 30;

class SlowKillAndResume : public TinyRunTest {
 protected:
  static std::vector<std::string> Edits(const std::string& precision) {
    return {"train.steps=" + std::to_string(kSteps), "compute.precision=" + precision};
  }

  // Starts the run, kills one of its ranks at a moment that `draw` decides, and waits for the end.
  // False: the run ended before.
  bool StartAndKill(const std::string& name, const std::vector<std::string>& edits,
                    const std::array<uint32_t, 4>& draw) {
    RunningProgram run(TrainCommand(name, 4, edits));
    // After a line that says where it is: before the first step (one time in eight), or behind any.
    const uint32_t step = draw[3] % 8 == 0 ? 0 : draw[0] % kSteps;
    char line[32] = "mesh pipe";
    if (step > 0) std::snprintf(line, sizeof(line), "step %2u/", step);
    if (!run.WaitFor(line)) return false;
    // And then at a random place within a step or a save, which take some 20 ms each.
    usleep(draw[1] % 40'000);
    const std::vector<pid_t> ranks = FindProcesses(SLUICE_BINARY, "run.dir=" + RunDir(name));
    if (ranks.empty()) return false;
    kill(ranks[draw[2] % ranks.size()], SIGKILL);
    return run.Wait() != 0;
  }
};

TEST_F(SlowKillAndResume, TwentyTimesTheSameStepsAndTheSameState) {
  std::map<std::string, std::vector<std::string>> rows, digest;
  for (const char* precision : {"FP32", "BF16"}) {
    const Outcome whole = RunShell(TrainCommand(precision, 4, Edits(precision)));
    ASSERT_EQ(whole.exit_code, 0) << whole.err;
    rows[precision] = Rows(precision);
    digest[precision] = Digest(RunDir(precision));
    ASSERT_EQ(rows[precision].size(), static_cast<size_t>(kSteps));
  }
  EXPECT_NE(rows["FP32"], rows["BF16"]);
  int killed = 0;
  for (int trial = 0; killed < kKills && trial < kMostTrials; ++trial) {
    const std::string name = "killed" + std::to_string(trial);
    const std::string precision = killed % 2 == 0 ? "FP32" : "BF16";
    const std::array<uint32_t, 4> draw = Philox(PhiloxKey(2, RandomPurpose::kTest), trial);
    const bool was_killed = StartAndKill(name, Edits(precision), draw);
    if (!was_killed) {
      std::printf("trial %2d, %s: ended before it was killed\n", trial, precision.c_str());
      continue;
    }
    ++killed;
    const size_t rows_left = Rows(name).size();
    const Outcome again = RunShell(TrainCommand(name, 4, Edits(precision)));
    ASSERT_EQ(again.exit_code, 0) << again.err;
    EXPECT_EQ(Rows(name), rows[precision]) << name;
    EXPECT_EQ(Digest(RunDir(name)), digest[precision]) << name;
    std::printf("trial %2d, %s: killed after %zu steps, equal\n", trial, precision.c_str(),
                rows_left);
    std::filesystem::remove_all(RunDir(name));
  }
  EXPECT_EQ(killed, kKills) << "of " << kMostTrials << " trials";
}

}  // namespace
}  // namespace sluice::launch
