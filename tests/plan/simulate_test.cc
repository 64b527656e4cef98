// The simulator against closed forms of the schedules, and against what must hold for any costs.
// P ranks, n microbatches; F, I, W one chunk's forward and the halves of its backward
#include "parallel/sim/simulate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/plan/test_schedules.h"

namespace sluice::parallel {
namespace {

using testing::EvenCosts;

Timeline Play(const Schedule& schedule, const StepCosts& costs) {
  return Simulate({.schedule = &schedule, .costs = &costs}).value();
}

TEST(Simulate, ClosedFormsOfBubbles) {
  const double f = 1, i = 1.5, w = 0.5, b = i + w;
  for (const int p : {1, 2, 4, 8}) {
    for (const int n : {p, 2 * p, 5 * p}) {
      const auto idle = [&](const char* name, int chunks) {
        const Schedule schedule = MakeSchedule(name, {p, n, chunks}).value();
        const Timeline timeline = Play(schedule, EvenCosts(schedule.num_stages, f, i, w));
        for (const RankTimes& rank : timeline.ranks) {
          EXPECT_NEAR(rank.compute, n * chunks * (f + b), 1e-9);
          EXPECT_NEAR(rank.idle, timeline.ranks[0].idle, 1e-9);
        }
        return timeline.ranks[0].idle;
      };
      EXPECT_NEAR(idle("gpipe", 1), (p - 1) * (f + b), 1e-9) << p << " " << n;
      EXPECT_NEAR(idle("1f1b", 1), (p - 1) * (f + b), 1e-9) << p << " " << n;
      EXPECT_NEAR(idle("interleaved", 2), (p - 1) * (f + b), 1e-9) << p << " " << n;
      EXPECT_NEAR(idle("zb_h1", 1), (p - 1) * (f + b - 2 * w), 1e-9) << p << " " << n;
    }
  }
}

// DeepSeek-V3 report, table 2: (P/2 - 1)(F&B + B - 3W), exact for F = I.
TEST(Simulate, DualPipesBubble) {
  for (const int p : {2, 4, 8, 16}) {
    for (const int n : {2 * p, 2 * p + 6, 5 * p}) {
      const Schedule schedule = MakeSchedule("dualpipe", {p, n, 1}).value();
      const Timeline timeline = Play(schedule, EvenCosts(p, 1, 1, 1));
      const double pair = 3, b = 2, w = 1;  // nothing to hide: F&B = F + B
      for (const RankTimes& rank : timeline.ranks)
        EXPECT_NEAR(rank.idle, (p / 2 - 1) * (pair + b - 3 * w), 1e-9) << p << " " << n;
    }
  }
}

StepCosts MoeCosts(int stages, double compute, double comm) {
  StepCosts costs;
  ChunkCost chunk;
  const auto moe = [&](std::vector<Phase>& to, double factor) {
    to = {{PhaseKind::kAttention, Lane::kCompute, factor * compute},
          {PhaseKind::kDispatch, Lane::kComm, comm, Growth::kWithRows},
          {PhaseKind::kExperts, Lane::kCompute, factor * compute, Growth::kWithRows},
          {PhaseKind::kCombine, Lane::kComm, comm, Growth::kWithRows}};
  };
  moe(chunk.forward, 1);
  moe(chunk.backward_input, 1.2);
  chunk.backward_weight = {{PhaseKind::kExperts, Lane::kCompute, compute}};
  chunk.weight_after = {3};
  costs.stages.assign(stages, chunk);
  return costs;
}

Timeline PlayOnCores(const Schedule& schedule, const StepCosts& costs, int groups, int cores,
                     int ranks_per_node) {
  return Simulate({.schedule = &schedule,
                   .costs = &costs,
                   .groups = groups,
                   .cores_per_node = cores,
                   .ranks_per_node = ranks_per_node})
      .value();
}

// Without a bubble, four ranks on two cores take twice as long as on four.
TEST(SimulateSharedCores, FourRanksOnTwoCoresTakeTwiceAsLong) {
  const Schedule schedule = MakeSchedule("1f1b", {1, 6, 1}).value();
  StepCosts costs = EvenCosts(1, 1, 1.5, 0.5);
  costs.tails = {{.reduce_gradients = 0.5, .optimizer = 0.25, .gather_parameters = 0.25}};
  EXPECT_NEAR(PlayOnCores(schedule, costs, 4, 4, 4).step_seconds, 6 * 3 + 1, 1e-9);
  EXPECT_NEAR(PlayOnCores(schedule, costs, 4, 2, 4).step_seconds, 2 * (6 * 3 + 1), 1e-9);
  EXPECT_NEAR(PlayOnCores(schedule, costs, 4, 3, 4).step_seconds, 4 / 3.0 * (6 * 3 + 1), 1e-9);
  // Two nodes of two cores each.
  EXPECT_NEAR(PlayOnCores(schedule, costs, 4, 2, 2).step_seconds, 6 * 3 + 1, 1e-9);
}

// A rank that waits leaves its core to the others: on one core there is no bubble at all.
TEST(SimulateSharedCores, WaitingCostsNothing) {
  for (const char* name : {"gpipe", "1f1b", "zb_h1"}) {
    const Schedule schedule = MakeSchedule(name, {4, 4, 1}).value();
    const StepCosts costs = EvenCosts(4, 1, 1, 1);
    EXPECT_NEAR(PlayOnCores(schedule, costs, 1, 1, 4).step_seconds, 4 * 4 * 3, 1e-9) << name;
    const Timeline alone = Play(schedule, costs), enough = PlayOnCores(schedule, costs, 1, 4, 4);
    EXPECT_NEAR(enough.step_seconds, alone.step_seconds, 1e-9) << name;
    for (int rank = 0; rank < 4; ++rank)
      EXPECT_NEAR(enough.ranks[rank].idle, alone.ranks[rank].idle, 1e-9) << name;
  }
}

TEST(SimulateSharedCores, BetweenWorkOverCoresAndThatWithBubbles) {
  const Schedule schedule = MakeSchedule("1f1b", {4, 8, 1}).value();
  const StepCosts costs = EvenCosts(4, 1, 1, 1);
  const double two = PlayOnCores(schedule, costs, 1, 2, 4).step_seconds;
  EXPECT_GT(two, 4 * 8 * 3 / 2.0);  // the ends keep one core only
  EXPECT_LT(two, 2 * PlayOnCores(schedule, costs, 1, 4, 4).step_seconds);
  EXPECT_FALSE(Simulate({.schedule = &schedule, .costs = &costs, .cores_per_node = -1}).ok());
}

// Two ranks take turns, so that one always waits: a core goes on at 1 / (1 + what polling takes),
// two cores as if it took nothing.
TEST(SimulateSharedCores, PollingTakesItsShare) {
  const Schedule schedule = MakeSchedule("gpipe", {2, 1, 1}).value();
  const StepCosts costs = EvenCosts(2, 1, 1, 1);
  SimulationRequest request{.schedule = &schedule, .costs = &costs};
  request.ranks_per_node = 2;
  request.waiting_core_share = 0.25;
  request.cores_per_node = 1;
  EXPECT_NEAR(Simulate(request).value().step_seconds, 1.25 * 2 * 3, 1e-9);
  request.cores_per_node = 2;
  EXPECT_NEAR(Simulate(request).value().step_seconds, 2 * 3, 1e-9);
}

// Two of four ranks work at a time, on two cores: a rank that wakes takes the one that is free, and
// shares both with what the others' questions take.
TEST(SimulateSharedCores, ARankThatWakesTakesTheFreeCore) {
  const Schedule schedule = MakeSchedule("gpipe", {2, 1, 1}).value();
  const StepCosts costs = EvenCosts(2, 1, 1, 1);
  SimulationRequest request{.schedule = &schedule, .costs = &costs, .groups = 2};
  request.cores_per_node = 2;
  request.ranks_per_node = 4;
  EXPECT_NEAR(Simulate(request).value().step_seconds, 2 * 3, 1e-9);
  request.waiting_core_share = 0.25;
  EXPECT_NEAR(Simulate(request).value().step_seconds, (2 + 2 * 0.25) / 2 * 2 * 3, 1e-9);
  request.cores_per_node = 4;
  EXPECT_NEAR(Simulate(request).value().step_seconds, 2 * 3, 1e-9);
}

// Four ranks on two cores, two stages of two members that exchange experts. While a stage waits the
// other's members have both cores, so there is no bubble: work over cores.
TEST(SimulateSharedCores, StagesOfExpertGroupsLeaveEachOtherTheirCores) {
  const Schedule schedule = MakeSchedule("gpipe", {2, 4, 1}).value();
  const StepCosts costs = EvenCosts(2, 1, 2, 0);
  SimulationRequest request{.schedule = &schedule, .costs = &costs, .members = 2};
  request.cores_per_node = 2;
  request.ranks_per_node = 4;
  // 2 stages x 2 members x 4 microbatches x 3 seconds.
  EXPECT_NEAR(Simulate(request).value().step_seconds, 2 * 2 * 4 * 3 / 2.0, 1e-9);
}

// The streams of a rank on a CPU run in their caller: a pair takes what its halves take one by one,
// with nothing beside compute that could slow it down. On devices of their own the same costs hide.
TEST(SimulateSharedCores, APairHidesNothing) {
  const Schedule dual = MakeSchedule("dualpipe", {2, 8, 1}).value();
  StepCosts costs = MoeCosts(2, 1.0, 0.4);
  const auto busy = [](const Timeline& timeline) {
    return timeline.ranks[0].compute + timeline.ranks[0].exposed_comm;
  };
  // A microbatch of a stage: F 2 + 2 x 0.4, I 2.4 + 2 x 0.4, W 1. A rank runs both stages, each for
  // half of the eight microbatches.
  const double sum = 8 * (2.8 + 3.2 + 1);
  EXPECT_NEAR(busy(PlayOnCores(dual, costs, 1, 2, 2)), sum, 1e-9);
  EXPECT_LT(busy(Play(dual, costs)), 0.95 * sum);
  costs.compute_factor_in_overlap = 1.5;
  costs.overlap = Overlap::kNeighbours;
  EXPECT_NEAR(busy(PlayOnCores(dual, costs, 1, 2, 2)), sum, 1e-9);
  const Schedule plain = MakeSchedule("1f1b", {2, 8, 1}).value();
  EXPECT_NEAR(busy(PlayOnCores(plain, costs, 1, 2, 2)), sum, 1e-9);
}

// Two members, of which the fuller has 1.5 times the mean: on two cores they take 1.5 seconds, on
// one the two that they work.
TEST(SimulateSharedCores, AMemberThatWaitsForAFullerOneLeavesItsCore) {
  const Schedule schedule = MakeSchedule("1f1b", {1, 1, 1}).value();
  StepCosts costs = EvenCosts(1, 1, 0, 0);
  costs.stages[0].forward[0].growth = Growth::kWithRows;
  SimulationRequest request{.schedule = &schedule, .costs = &costs, .members = 2};
  request.rows.constant = 1.5;
  request.ranks_per_node = request.cores_per_node = 2;
  EXPECT_NEAR(Simulate(request).value().step_seconds, 1.5, 1e-9);
  request.cores_per_node = 1;
  EXPECT_NEAR(Simulate(request).value().step_seconds, 2, 1e-9);
}

// Two stages of two members end the step with 3 seconds and 1 second of work each, on two cores:
// all four for 2 seconds, until the shorter are done, then two for the other 2.
TEST(SimulateSharedCores, AtTheEndShortTailsLeaveTheirCoresToLongOnes) {
  const Schedule schedule = MakeSchedule("1f1b", {2, 2, 1}).value();
  StepCosts costs = EvenCosts(2, 1, 1, 1);
  costs.tails = {{0, 3, 0}, {0, 1, 0}};
  SimulationRequest request{.schedule = &schedule, .costs = &costs, .members = 2};
  request.ranks_per_node = 4;
  const auto tail = [&](int cores) {
    request.cores_per_node = cores;
    return Simulate(request).value().tail.total();
  };
  EXPECT_NEAR(tail(2), 4, 1e-9);
  EXPECT_NEAR(tail(1), 8, 1e-9);
  EXPECT_NEAR(tail(3), 4 / 3.0 + 2, 1e-9);
  EXPECT_NEAR(tail(4), 3, 1e-9);
  request.ranks_per_node = 2;  // a node a stage
  EXPECT_NEAR(tail(1), 6, 1e-9);
}

TEST(Simulate, OverlappedPairsHideTheExchange) {
  const int p = 4, n = 16;
  const Schedule plain = MakeSchedule("1f1b", {p, n, 1}).value();
  const Schedule dual = MakeSchedule("dualpipe", {p, n, 1}).value();
  StepCosts costs = MoeCosts(p, 1.0, 0.4);
  const Timeline alone = Play(plain, costs), hidden = Play(dual, costs);
  EXPECT_LT(hidden.pipeline_seconds, 0.8 * alone.pipeline_seconds);
  EXPECT_LT(hidden.exposed_comm(), 0.5 * alone.exposed_comm());
  costs.overlap = Overlap::kNeighbours;
  const Timeline neighbours = Play(plain, costs);
  EXPECT_LT(neighbours.pipeline_seconds, alone.pipeline_seconds);
  EXPECT_GT(neighbours.pipeline_seconds, hidden.pipeline_seconds);
  // Communication that costs nothing leaves nothing to hide.
  StepCosts free = MoeCosts(p, 1.0, 0.0);
  const double before = Play(plain, free).pipeline_seconds;
  free.overlap = Overlap::kNeighbours;
  EXPECT_NEAR(Play(plain, free).pipeline_seconds, before, 1e-9);
}

TEST(Simulate, ComputeSlowsDownBesideCommunicationOnlyInPairs) {
  const Schedule dual = MakeSchedule("dualpipe", {2, 8, 1}).value(),
                 plain = MakeSchedule("1f1b", {2, 8, 1}).value();
  StepCosts costs = EvenCosts(2, 1, 1, 1);
  const double dual_before = Play(dual, costs).pipeline_seconds;
  const double plain_before = Play(plain, costs).pipeline_seconds;
  costs.compute_factor_in_overlap = 1.2;
  EXPECT_GT(Play(dual, costs).pipeline_seconds, dual_before + 1);
  EXPECT_DOUBLE_EQ(Play(plain, costs).pipeline_seconds, plain_before);
}

TEST(Simulate, AStragglerSlowsItsGroupAndNoOther) {
  const Schedule schedule = MakeSchedule("1f1b", {4, 8, 1}).value();
  const StepCosts costs = EvenCosts(4, 1, 1, 1);
  // Rank = pipe * (G * M) + group * M + member: rank 2 * 6 + 1 * 2 + 1 is pipe rank 2 of group 1.
  const Timeline timeline = Simulate({.schedule = &schedule,
                                      .costs = &costs,
                                      .groups = 3,
                                      .members = 2,
                                      .stragglers = {{15, 2.0}}})
                                .value();
  EXPECT_EQ(timeline.num_ranks(), 24);
  const double even = Play(schedule, costs).pipeline_seconds;
  for (int group = 0; group < 3; ++group) {
    double finish = 0;
    for (int rank = 0; rank < 4; ++rank)
      finish = std::max(finish, timeline.ranks[group * 4 + rank].finish);
    EXPECT_EQ(finish > even + 1e-9, group == 1) << group;
  }
  // Pipe rank 2 at half speed: two F until its first, one second until the first gradient comes
  // back (F and B of rank 3 against its own second F), n times 2 (F + B), two B to leave.
  EXPECT_NEAR(timeline.pipeline_seconds, 2 * 1 + 1 + 8 * 2 * 3 + 2 * 2, 1e-9);
}

TEST(Simulate, RowsOfTheFullestMemberCountOnlyWhereRowsDo) {
  const Schedule schedule = MakeSchedule("gpipe", {1, 4, 1}).value();
  const StepCosts costs = MoeCosts(1, 1.0, 0.5);
  SimulationRequest request{.schedule = &schedule, .costs = &costs};
  const double even = Simulate(request).value().pipeline_seconds;
  request.rows.worst = [](int, int, int microbatch) { return microbatch == 2 ? 1.5 : 1.0; };
  // Forward: experts 1 and two exchanges 0.5; backward: experts 1.2 and two exchanges.
  EXPECT_NEAR(Simulate(request).value().pipeline_seconds, even + 0.5 * (1 + 1 + 1.2 + 1), 1e-9);
}

TEST(Simulate, MessagesQueueForTheirLink) {
  const Schedule schedule = MakeSchedule("gpipe", {2, 3, 1}).value();
  StepCosts costs = EvenCosts(2, 1, 1, 1);
  costs.message_seconds = 5;
  costs.message_latency = 0.25;
  const Timeline timeline = Play(schedule, costs);
  // The third activation leaves after the other two: at 1 + 3 * 5, is there 0.25 later. Then
  // F, and three backwards of I + W that return gradients; the last returns alone.
  const std::vector<ActionSpan>& last = timeline.spans[1];
  EXPECT_DOUBLE_EQ(last[2].start, 16.25);
  EXPECT_DOUBLE_EQ(timeline.spans[0][5].start, 17.25 + 2 + 3 * 5 + 0.25);
}

TEST(Simulate, TailIsTheLongestOfTheRanks) {
  const Schedule schedule = MakeSchedule("1f1b", {2, 2, 1}).value();
  StepCosts costs = EvenCosts(2, 1, 1, 1);
  costs.tails = {{1, 2, 3}, {0.5, 0.25, 0}};
  const Timeline timeline = Play(schedule, costs);
  EXPECT_DOUBLE_EQ(timeline.step_seconds, timeline.pipeline_seconds + 6);
  ASSERT_EQ(timeline.tails.size(), 2u);
  EXPECT_DOUBLE_EQ(timeline.tails[1].total(), 0.75);
}

TEST(Simulate, SaysWhatIsWrong) {
  Schedule schedule = MakeSchedule("1f1b", {2, 2, 1}).value();
  StepCosts costs = EvenCosts(3, 1, 1, 1);
  EXPECT_THAT(std::string(Simulate({.schedule = &schedule, .costs = &costs}).status().message()),
              ::testing::HasSubstr("costs of 3 stages, wanted 2"));
  costs = EvenCosts(2, 1, 1, 1);
  costs.tails = {{1, 2, 3}};
  EXPECT_THAT(std::string(Simulate({.schedule = &schedule, .costs = &costs}).status().message()),
              ::testing::HasSubstr("tails of 1 pipeline ranks, wanted 2"));
  costs.tails.clear();
  schedule.actions[1].erase(schedule.actions[1].begin() + 1);  // F of the last stage
  EXPECT_THAT(std::string(Simulate({.schedule = &schedule, .costs = &costs}).status().message()),
              ::testing::HasSubstr("deadlocks"));
}

// 2048 ranks: 16 stages, two groups of 64 experts' ranks, 120 microbatches. The work is that of 32
// pipelines and of each action once, whatever a group's members are: every forward and every half
// of a backward that runs alone is asked for its rows once, a pair for each side.
TEST(Simulate, TwoThousandRanksAreAsManyActionsAsTheirPipelines) {
  const Schedule schedule = MakeSchedule("dualpipe", {16, 120, 1}).value();
  const StepCosts costs = MoeCosts(16, 1.0, 0.8);
  SimulationRequest request{
      .schedule = &schedule, .costs = &costs, .groups = 2, .members = 64, .keep_spans = false};
  int64_t split = 0;
  for (const auto& actions : schedule.actions) {
    for (const Action& action : actions) split += action.kind == ActionKind::kBackwardWeight;
  }
  int64_t asked = 0;
  request.rows.worst = [&](int, int, int) {
    ++asked;
    return 1.25;
  };
  const Timeline timeline = Simulate(request).value();
  EXPECT_EQ(timeline.num_ranks(), 2048);
  EXPECT_EQ(timeline.ranks.size(), 32u);
  EXPECT_EQ(asked, 2 * (2 * 16 * 120 + split));
  // Where the factor is one for all, equal chunks are timed once, to the same time.
  request.rows.worst = nullptr;
  request.rows.constant = 1.25;
  EXPECT_DOUBLE_EQ(Simulate(request).value().step_seconds, timeline.step_seconds);
}

}  // namespace
}  // namespace sluice::parallel
