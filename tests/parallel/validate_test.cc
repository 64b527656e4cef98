#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/parallel/schedule_testing.h"

namespace sluice::parallel {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string Fault(const Schedule& schedule) {
  const absl::Status status = Validate(schedule);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

// 1F1B on two ranks with two microbatches and these actions instead.
Schedule TwoRanks(absl::string_view text) {
  Schedule schedule = Make1F1B({2, 2, 1}).value();
  schedule.actions = ParseActions(text).value();
  return schedule;
}

constexpr char kRank0[] = "F0.0 sa0.0 F0.1 sa0.1 rg0.0 B0.0 rg0.1 B0.1\n";
constexpr char kRank1[] = "ra1.0 F1.0 B1.0 sg1.0 ra1.1 F1.1 B1.1 sg1.1\n";

TEST(Validate, AcceptsOverlappedPairsAndTwoReplicas) {
  for (const int n : {1, 2, 3, 8}) {
    for (const int ranks : {1, 2, 4}) {
      const auto overlapped = InsertCommunication(testing::MakeOverlapped1F1B(ranks, n)).value();
      EXPECT_EQ(Validate(overlapped), absl::OkStatus());
    }
  }
  for (const int ranks : {2, 4, 6}) {
    const Schedule schedule = InsertCommunication(testing::MakeTwoReplicas(ranks, 6)).value();
    EXPECT_EQ(Validate(schedule), absl::OkStatus());
  }
}

TEST(Validate, AcceptsSplitBackwardsOfSomeMicrobatchesOnly) {
  EXPECT_EQ(Validate(TwoRanks(std::string(kRank0) +
                              "ra1.0 F1.0 I1.0 sg1.0 ra1.1 F1.1 W1.0 B1.1 sg1.1\n")),
            absl::OkStatus());
}

TEST(Validate, TheErrorShowsTheGridWithThePlaceMarked) {
  EXPECT_EQ(Fault(TwoRanks("F0.0 sa0.0 F0.1 sa0.1 B0.0 rg0.0 rg0.1 B0.1\n" + std::string(kRank1))),
            "schedule 1f1b, rank 0, action 4 B0.0: its forward or the gradient of its output is "
            "not there yet\n"
            "rank 0  F0.0 F0.1 stuck at B0.0 and 3 more\n"
            "                  ^ B0.0, action 4\n"
            "rank 1  .    F1.0 B1.0----- F1.1 B1.1-----\n");
}

TEST(Validate, MissingWorkIsNamed) {
  EXPECT_THAT(
      Fault(TwoRanks("F0.0 sa0.0 F0.1 sa0.1 rg0.0 B0.0 rg0.1 I0.1\n" + std::string(kRank1))),
      HasSubstr("rank 0, end: W0.1 is missing"));
  EXPECT_THAT(Fault(TwoRanks("F0.0 sa0.0 F0.1 rg0.0 B0.0 rg0.1 B0.1\n" + std::string(kRank1))),
              HasSubstr("sa0.1 is missing"));
  EXPECT_THAT(Fault(TwoRanks("\n" + std::string(kRank1))), HasSubstr("F0.0 is missing"));
}

TEST(Validate, ASchedulesWithoutMessagesIsIncomplete) {
  EXPECT_THAT(Fault(Make1F1B({2, 2, 1}).value()), HasSubstr("sa0.0 is missing"));
  EXPECT_EQ(Validate(Make1F1B({1, 2, 1}).value()), absl::OkStatus());
}

TEST(Validate, RepeatedWorkIsNamed) {
  EXPECT_THAT(
      Fault(TwoRanks("F0.0 sa0.0 F0.0 F0.1 sa0.1 rg0.0 B0.0 rg0.1 B0.1\n" + std::string(kRank1))),
      HasSubstr("action 2 F0.0: F0.0 was done before"));
  EXPECT_THAT(
      Fault(TwoRanks("F0.0 sa0.0 F0.1 sa0.1 rg0.0 B0.0 W0.0 rg0.1 B0.1\n" + std::string(kRank1))),
      HasSubstr("action 6 W0.0: W0.0 was done before"));
  // A message that is both sent and received twice.
  EXPECT_THAT(Fault(TwoRanks("F0.0 sa0.0 sa0.0 F0.1 sa0.1 rg0.0 B0.0 rg0.1 B0.1\n"
                             "ra1.0 ra1.0 F1.0 B1.0 sg1.0 ra1.1 F1.1 B1.1 sg1.1\n")),
              HasSubstr("sa0.0 was done before"));
}

TEST(Validate, WorkOfAnotherRankIsNamed) {
  EXPECT_THAT(Fault(TwoRanks("F0.0 sa0.0 F1.1\n" + std::string(kRank1))),
              HasSubstr("action 2 F1.1: its stage is not on this rank"));
  EXPECT_THAT(Fault(TwoRanks("F0.0 sa0.0 F2.1\n" + std::string(kRank1))),
              HasSubstr("no such stage"));
  EXPECT_THAT(Fault(TwoRanks("F0.2\n" + std::string(kRank1))), HasSubstr("no such stage"));
  EXPECT_THAT(Fault(TwoRanks("ra0.0\n" + std::string(kRank1))), HasSubstr("no other rank"));
  EXPECT_THAT(Fault(TwoRanks("(F0.0|B1.0)\n" + std::string(kRank1))),
              HasSubstr("not on this rank"));
}

TEST(Validate, WeightGradientsAscend) {
  Schedule schedule = MakeGPipe({1, 2, 1}).value();
  schedule.actions = ParseActions("F0.0 F0.1 B0.1 B0.0").value();
  EXPECT_THAT(Fault(schedule), HasSubstr("action 3 B0.0: weight gradients of a stage must ascend"));
  schedule.actions = ParseActions("F0.0 F0.1 I0.1 I0.0 W0.0 W0.1").value();
  EXPECT_EQ(Validate(schedule), absl::OkStatus());
}

// The halves of an overlapped pair run at the same time.
TEST(Validate, AnOverlappedBackwardMayNotNeedItsForward) {
  Schedule schedule = MakeGPipe({1, 1, 1}).value();
  schedule.actions = ParseActions("(F0.0|B0.0)").value();
  EXPECT_THAT(Fault(schedule), HasSubstr("an input of its forward or of its backward"));
}

TEST(Validate, ADeadlockIsShownAsACircle) {
  // Rank 0 wants the first gradient before it sends the second activation; rank 1 the reverse.
  EXPECT_THAT(Fault(TwoRanks("F0.0 sa0.0 F0.1 rg0.0 sa0.1 B0.0 rg0.1 B0.1\n"
                             "ra1.0 F1.0 ra1.1 F1.1 B1.0 sg1.0 B1.1 sg1.1\n")),
              StartsWith("schedule 1f1b, rank 0, action 3 rg0.0: deadlock: rank 0 waits for sg1.0 "
                         "of rank 1, rank 1 waits for sa0.1 of rank 0\n"));
}

TEST(Validate, MessagesOfAPairOfRanksKeepTheirOrder) {
  EXPECT_THAT(
      Fault(TwoRanks("F0.0 F0.1 sa0.1 sa0.0 rg0.0 B0.0 rg0.1 B0.1\n" + std::string(kRank1))),
      HasSubstr("rank 1, action 0 ra1.0: the next message from rank 0 is sa0.1"));
}

TEST(Validate, BrokenTablesAreRefusedWithoutAGrid) {
  const Schedule good = MakeSchedule("1f1b", {2, 2, 1}).value();
  Schedule bad = good;
  bad.rank_of_stage[0][1] = 2;
  EXPECT_THAT(Fault(bad), HasSubstr("rank 2, wanted below 2"));
  bad = good;
  bad.rank_of_stage[0].pop_back();
  EXPECT_THAT(Fault(bad), HasSubstr("has 1 stages, wanted 2"));
  bad = good;
  bad.replica_of_microbatch[1] = 1;
  EXPECT_THAT(Fault(bad), HasSubstr("replica 1, wanted below 1"));
  bad = good;
  bad.replica_of_microbatch.pop_back();
  EXPECT_THAT(Fault(bad), HasSubstr("has 1 microbatches, wanted 2"));
  bad = good;
  bad.rank_of_stage.clear();
  EXPECT_THAT(Fault(bad), Not(HasSubstr("\n")));
  EXPECT_THAT(Fault(Schedule()), HasSubstr("at least 1"));
}

}  // namespace
}  // namespace sluice::parallel
