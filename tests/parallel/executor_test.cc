#include "parallel/pipeline/executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "parallel/comm/decorators.h"
#include "tests/parallel/schedule_testing.h"
#include "tests/parallel/toy_stage.h"
#include "tests/support/thread_ranks.h"

namespace sluice::parallel {
namespace {

using kernels::CpuStreamMode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::ToyReference;
using testing::ToyStage;
using testing::ToyStep;

struct RunOptions {
  int num_phases = 1;
  bool forward_only = false;
  int failing_rank = -1, failing_microbatch = -1;  // the first stage of the rank
};

// What one rank did.
struct RankRun {
  absl::Status status;
  std::vector<Action> trace;
  // Phases of its stages as they were enqueued; a tracing communicator may add messages.
  std::unique_ptr<CallLog> log = std::make_unique<CallLog>();
  std::vector<int> stages;                       // those it holds, ascending
  std::vector<testing::ToyGradients> gradients;  // of these
  std::vector<double> losses;  // [microbatch] on the last stage's rank, otherwise empty
};

void RunRank(const Schedule& schedule, Communicator& pipe, kernels::DeviceContext& device,
             const RunOptions& options, RankRun& run) {
  std::vector<std::unique_ptr<ToyStage>> mine;
  std::vector<Stage*> stages(schedule.num_stages, nullptr);
  for (int s = 0; s < schedule.num_stages; ++s) {
    bool is_mine = false;
    for (const auto& ranks : schedule.rank_of_stage) is_mine |= ranks[s] == pipe.rank();
    if (!is_mine) continue;
    mine.push_back(std::make_unique<ToyStage>(s, schedule.num_stages, schedule.num_microbatches,
                                              options.num_phases, device, run.log.get()));
    run.stages.push_back(s);
    stages[s] = mine.back().get();
  }
  if (pipe.rank() == options.failing_rank) mine.front()->FailAt(options.failing_microbatch);
  run.status = Execute(schedule, stages, pipe, device,
                       {.forward_only = options.forward_only, .trace = &run.trace});
  if (!run.status.ok()) pipe.Abort(run.status);
  ASSERT_EQ(device.stream(kernels::StreamRole::kCompute).Synchronize(), absl::OkStatus());
  for (size_t i = 0; i < mine.size(); ++i) {
    if (run.status.ok()) mine[i]->ExpectAllReleased(!options.forward_only);
    run.gradients.push_back(mine[i]->gradients());
    for (int m = 0; run.stages[i] + 1 == schedule.num_stages && m < schedule.num_microbatches;
         ++m) {
      run.losses.push_back(mine[i]->loss(m));
    }
  }
}

// Several steps, one after the other on the same communicators, each with fresh stages:
// [step][rank].
std::vector<std::vector<RankRun>> RunSteps(const Schedule& schedule, CpuStreamMode mode,
                                           const std::vector<RunOptions>& steps) {
  const int num_ranks = schedule.num_ranks();
  std::vector<std::vector<RankRun>> runs(steps.size());
  for (std::vector<RankRun>& ranks : runs) ranks.resize(num_ranks);
  ::sluice::testing::RunThreadRanks(
      num_ranks, mode, [&](Communicator& pipe, kernels::DeviceContext& device) {
        for (size_t i = 0; i < steps.size(); ++i) {
          RunRank(schedule, pipe, device, steps[i], runs[i][pipe.rank()]);
        }
      });
  return runs;
}

std::vector<RankRun> RunAll(const Schedule& schedule, CpuStreamMode mode,
                            const RunOptions& options = {}) {
  return std::move(RunSteps(schedule, mode, {options})[0]);
}

// Losses and gradients have the bits of plain loops over the microbatches and stages of a replica.
void ExpectEqualsReference(const Schedule& schedule, const std::vector<RankRun>& runs) {
  const int replicas = static_cast<int>(schedule.rank_of_stage.size());
  const int share = schedule.num_microbatches / replicas;
  for (int replica = 0; replica < replicas; ++replica) {
    const ToyStep wanted =
        ToyReference(schedule.num_stages, replica * share, (replica + 1) * share);
    for (int stage = 0; stage < schedule.num_stages; ++stage) {
      const RankRun& run = runs[schedule.rank_of_stage[replica][stage]];
      ASSERT_EQ(run.status, absl::OkStatus());
      const auto place = std::find(run.stages.begin(), run.stages.end(), stage);
      ASSERT_NE(place, run.stages.end());
      EXPECT_TRUE(run.gradients[place - run.stages.begin()] == wanted.gradients[stage])
          << "stage " << stage << " of replica " << replica;
    }
    const RankRun& last = runs[schedule.rank_of_stage[replica].back()];
    for (int m = 0; m < share; ++m) {
      EXPECT_EQ(last.losses[replica * share + m], wanted.losses[m]);
    }
  }
}

class Executor : public ::testing::TestWithParam<CpuStreamMode> {};

TEST_P(Executor, EverySchedulesBitsAreThoseOfPlainLoops) {
  for (const testing::NamedShape& made : testing::AllSmallShapes()) {
    if (made.shape.num_ranks > 4 || made.shape.num_microbatches > 8) continue;
    const Schedule schedule = MakeSchedule(made.name, made.shape).value();
    SCOPED_TRACE(Describe(made));
    ExpectEqualsReference(schedule, RunAll(schedule, GetParam()));
  }
}

// "send 1 tag 4", "receive 0 tag 2"; "" for an action that is no message.
std::string MessageOf(const Schedule& schedule, const Action& a) {
  const auto text = [&](const char* what, int peer_stage, int tag) {
    return absl::StrCat(what, " ", schedule.RankOf(peer_stage, a.microbatch), " tag ", tag);
  };
  // Of the boundary below a stage 2 s for activations, of that above it 2 s + 1 for gradients.
  switch (a.kind) {
    case ActionKind::kSendActivation:
      return text("send", a.stage + 1, 2 * (a.stage + 1));
    case ActionKind::kReceiveActivation:
      return text("receive", a.stage - 1, 2 * a.stage);
    case ActionKind::kSendGradient:
      return text("send", a.stage - 1, 2 * (a.stage - 1) + 1);
    case ActionKind::kReceiveGradient:
      return text("receive", a.stage + 1, 2 * a.stage + 1);
    default:
      return "";
  }
}

// What stages of one phase and a communicator must have seen of a rank's actions, in order.
std::vector<std::string> SeenOf(const Schedule& schedule, int rank) {
  std::vector<std::string> seen;
  const auto add = [&](const char* halves, int stage, int microbatch) {
    for (const char* half = halves; *half != 0; ++half)
      seen.push_back(absl::StrCat(std::string(1, *half), stage, ".", microbatch, ":0"));
  };
  for (const Action& a : schedule.actions[rank]) {
    const bool pair = a.kind == ActionKind::kOverlap;
    if (a.kind == ActionKind::kForward || pair) add("F", a.stage, a.microbatch);
    if (a.kind == ActionKind::kBackwardInput) add("I", a.stage, a.microbatch);
    if (a.kind == ActionKind::kBackwardWeight) add("W", a.stage, a.microbatch);
    if (a.kind == ActionKind::kBackward) add("IW", a.stage, a.microbatch);
    if (pair) add("IW", a.backward_stage, a.backward_microbatch);
    const std::string message = MessageOf(schedule, a);
    if (!message.empty()) seen.push_back(message);
  }
  return seen;
}

// "send f32 [3, 6] to 1 tag 4" as "send 1 tag 4"; other lines as they are.
std::string Shortened(const std::string& line) {
  const bool is_send = absl::StartsWith(line, "send ");
  if (!is_send && !absl::StartsWith(line, "receive ")) return line;
  const size_t peer = line.find(is_send ? " to " : " from ");
  EXPECT_NE(peer, line.npos) << line;
  return (is_send ? "send " : "receive ") + line.substr(peer + (is_send ? 4 : 6));
}

// The stages and a communicator write down, in one list, what the executor calls. Its own trace is
// only what it says. (Of phases there is one: an order within an action would be the executor's.)
TEST_P(Executor, WhatIsEnqueuedIsTheSchedule) {
  for (const char* name : {"gpipe", "1f1b", "interleaved", "zb_h1", "dualpipe", "dualpipe_v"}) {
    const Schedule schedule = MakeSchedule(name, {4, 8, testing::ChunksOf(name)}).value();
    std::vector<RankRun> runs(4);
    ::sluice::testing::RunThreadRanks(
        4, GetParam(), [&](Communicator& group, kernels::DeviceContext& device) {
          const int rank = group.rank();
          const auto traced =
              CreateTracingCommunicator(group.Split(0, rank).value(), *runs[rank].log);
          RunRank(schedule, *traced, device, {}, runs[rank]);
        });
    for (int rank = 0; rank < 4; ++rank) {
      EXPECT_EQ(runs[rank].status, absl::OkStatus());
      std::vector<std::string> seen;
      for (const std::string& line : runs[rank].log->lines()) seen.push_back(Shortened(line));
      EXPECT_EQ(seen, SeenOf(schedule, rank)) << name << " rank " << rank;
      EXPECT_EQ(runs[rank].trace, schedule.actions[rank]) << name << " rank " << rank;
    }
  }
}

TEST_P(Executor, OverlappedPairsGiveTheSameBits) {
  for (const int num_phases : {1, 3}) {
    for (const int n : {1, 3, 8}) {
      const Schedule schedule = InsertCommunication(testing::MakeOverlapped1F1B(4, n)).value();
      const auto runs = RunAll(schedule, GetParam(), {.num_phases = num_phases});
      ExpectEqualsReference(schedule, runs);
      for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(runs[rank].trace, schedule.actions[rank]);
    }
  }
}

// One rank holds both stages, so both halves of a pair hand over to a stage beside them.
TEST_P(Executor, OverlappedPairsHandOverOnTheSameRank) {
  Schedule schedule = MakeInterleaved({1, 2, 2}).value();
  schedule.actions = ParseActions("F0.0 F1.0 (F0.1|B1.0) (F1.1|B0.0) B1.1 B0.1").value();
  ASSERT_EQ(Validate(schedule), absl::OkStatus());
  ExpectEqualsReference(schedule, RunAll(schedule, GetParam(), {.num_phases = 2}));
}

// With phases on two streams.
TEST_P(Executor, EveryScheduleGivesTheSameBitsInPhases) {
  for (const char* name : {"gpipe", "1f1b", "interleaved", "zb_h1", "dualpipe", "dualpipe_v"}) {
    for (const int num_phases : {2, 3, 6}) {
      const Schedule schedule = MakeSchedule(name, {4, 8, testing::ChunksOf(name)}).value();
      SCOPED_TRACE(name);
      ExpectEqualsReference(schedule, RunAll(schedule, GetParam(), {.num_phases = num_phases}));
    }
  }
}

TEST_P(Executor, TwoReplicasHoldTheGradientsOfTheirHalves) {
  for (const int ranks : {2, 4}) {
    const Schedule schedule = InsertCommunication(testing::MakeTwoReplicas(ranks, 6)).value();
    ASSERT_EQ(Validate(schedule), absl::OkStatus());
    ExpectEqualsReference(schedule, RunAll(schedule, GetParam()));
  }
}

TEST_P(Executor, EvaluationRunsForwardsAndTheirMessagesOnly) {
  std::vector<Schedule> schedules = {
      InsertCommunication(testing::MakeOverlapped1F1B(4, 8)).value()};
  for (const char* name : {"gpipe", "1f1b", "zb_h1"}) {
    schedules.push_back(MakeSchedule(name, {4, 8, 1}).value());
  }
  schedules.push_back(MakeSchedule("interleaved", {2, 4, 3}).value());
  schedules.push_back(MakeSchedule("dualpipe", {4, 8, 1}).value());
  schedules.push_back(MakeSchedule("dualpipe_v", {2, 5, 2}).value());
  for (const Schedule& schedule : schedules) {
    SCOPED_TRACE(schedule.name);
    const auto steps = RunSteps(schedule, GetParam(), {{.forward_only = true}, {}});
    const std::vector<RankRun>& runs = steps[0];
    const ToyStep wanted = ToyReference(schedule.num_stages, 0, schedule.num_microbatches);
    for (int m = 0; m < schedule.num_microbatches; ++m) {
      EXPECT_EQ(runs[schedule.RankOf(schedule.num_stages - 1, m)].losses[m], wanted.losses[m]);
    }
    for (const RankRun& run : runs) {
      ASSERT_EQ(run.status, absl::OkStatus());
      for (const auto& gradients : run.gradients) EXPECT_TRUE(gradients == testing::ToyGradients());
      for (const Action& action : run.trace) {
        EXPECT_TRUE(action.kind == ActionKind::kForward ||
                    action.kind == ActionKind::kSendActivation ||
                    action.kind == ActionKind::kReceiveActivation)
            << ToText(action);
      }
    }
    // No message is left over that the next step would take for its own.
    ExpectEqualsReference(schedule, steps[1]);
  }
}

TEST_P(Executor, AnErrorCarriesTheAction) {
  const Schedule schedule = MakeSchedule("1f1b", {2, 4, 1}).value();
  const auto runs = RunAll(schedule, GetParam(), {.failing_rank = 1, .failing_microbatch = 2});
  EXPECT_EQ(runs[1].status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(std::string(runs[1].status.message()), "in F1.2: the toy broke");
  EXPECT_EQ(ToText(runs[1].trace.back()), "ra1.2");  // what failed is not in the trace
  // Rank 0 was freed by rank 1's Abort, in a message.
  EXPECT_FALSE(runs[0].status.ok());
  EXPECT_THAT(std::string(runs[0].status.message()), HasSubstr("in "));
}

INSTANTIATE_TEST_SUITE_P(Streams, Executor,
                         ::testing::Values(CpuStreamMode::kInline, CpuStreamMode::kThreaded),
                         [](const auto& info) {
                           return info.param == CpuStreamMode::kInline ? "Inline" : "Threaded";
                         });

TEST(ExecutorPhases, ForwardsAscendAndBackwardsDescend) {
  const Schedule schedule = MakeSchedule("1f1b", {1, 1, 1}).value();
  EXPECT_THAT(RunAll(schedule, CpuStreamMode::kInline, {.num_phases = 2})[0].log->lines(),
              ElementsAre("F0.0:0", "F0.0:1", "I0.0:1", "I0.0:0", "W0.0:1", "W0.0:0"));
}

TEST(ExecutorPhases, AnOverlappedPairKeepsBothStreamsBusy) {
  const Schedule schedule = InsertCommunication(testing::MakeOverlapped1F1B(2, 2)).value();
  EXPECT_THAT(RunAll(schedule, CpuStreamMode::kInline, {.num_phases = 2})[0].log->lines(),
              ElementsAre("F0.0:0", "F0.0:1",                                          //
                          "I0.0:1", "F0.1:0", "F0.1:1", "I0.0:0", "W0.0:1", "W0.0:0",  //
                          "I0.1:1", "I0.1:0", "W0.1:1", "W0.1:0"));
}

}  // namespace
}  // namespace sluice::parallel
