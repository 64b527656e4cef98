// A signal asks a run to save and to stop; the next start goes on from there.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/launch/running_program.h"
#include "tests/launch/tiny_run.h"

namespace sluice::launch {
namespace {

using ::testing::HasSubstr;

class Signals : public TinyRunTest {
 protected:
  // Far more steps than the test waits for, and no checkpoint but the one that is asked for.
  static std::vector<std::string> Edits() { return {"train.steps=100000", "checkpoint.every=0"}; }

  // Starts the run, sends it a signal in its third step or later, and expects it to save and end.
  template <typename SendSignal>
  void StopAfterThreeSteps(int ranks, const SendSignal& send) {
    RunningProgram run(TrainCommand("run", ranks, Edits()));
    const size_t before = saved_ == 0 ? 2 : saved_;
    ASSERT_TRUE(run.WaitFor("step " + Padded(before + 1) + "/")) << run.output();
    send(run);
    EXPECT_EQ(run.Wait(), 0) << run.output();
    EXPECT_THAT(run.output(), HasSubstr("asked to stop: saving after step "));
    if (saved_ > 0) {
      EXPECT_THAT(run.output(), HasSubstr(" after step " + std::to_string(saved_) + "\n"));
    }
    const size_t steps = Rows("run").size();
    EXPECT_GT(steps, before);
    EXPECT_LT(steps, 100'000u);
    EXPECT_THAT(
        Generations("run").back(),
        HasSubstr("step-" + std::string(10 - Digits(steps), '0') + std::to_string(steps) + "-"));
    saved_ = steps;
  }
  static size_t Digits(size_t n) { return std::to_string(n).size(); }
  static std::string Padded(size_t step) {  // to the width of train.steps
    return std::string(6 - Digits(step), ' ') + std::to_string(step);
  }

  size_t saved_ = 0;  // steps at the last stop
};

TEST_F(Signals, OneProcessSavesOnEachOfThem) {
  for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) {
    StopAfterThreeSteps(1, [&](RunningProgram& run) { kill(run.pid(), signal); });
  }
}

TEST_F(Signals, LaunchRunPassesEachOfThemOn) {
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1, SIGHUP}) {
    StopAfterThreeSteps(4, [&](RunningProgram& run) { kill(run.pid(), signal); });
  }
}

TEST_F(Signals, Usr1ToMpirunOrToOneRankStopsAll) {
  StopAfterThreeSteps(4, [&](RunningProgram& /*run*/) {
    const auto mpirun = FindProcesses("mpirun", "run.dir=" + RunDir("run"));
    ASSERT_EQ(mpirun.size(), 1u);
    kill(mpirun[0], SIGUSR1);
  });
  StopAfterThreeSteps(4, [&](RunningProgram& /*run*/) {
    const auto ranks = FindProcesses(SLUICE_BINARY, "run.dir=" + RunDir("run"));
    ASSERT_EQ(ranks.size(), 4u);
    kill(ranks[2], SIGUSR1);
  });
}

}  // namespace
}  // namespace sluice::launch
