// Generators by name, text form and grid.
#include "parallel/schedule/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "tests/parallel/schedule_testing.h"
#include "tests/support/source_path.h"

namespace sluice::parallel {
namespace {

using ::testing::HasSubstr;

TEST(MakeSchedule, EverySmallShapeIsValid) {
  for (const testing::NamedShape& made : testing::AllSmallShapes()) {
    const absl::StatusOr<Schedule> schedule = MakeSchedule(made.name, made.shape);
    ASSERT_TRUE(schedule.ok()) << Describe(made) << ": " << schedule.status();
    EXPECT_EQ(schedule->num_stages, made.shape.num_ranks * made.shape.chunks);
    EXPECT_EQ(schedule->num_ranks(), made.shape.num_ranks);
  }
}

TEST(MakeSchedule, NamesIgnoreCase) {
  EXPECT_EQ(MakeSchedule("GPipe", {2, 3, 1}).value().name, "gpipe");
  EXPECT_EQ(MakeSchedule("Interleaved", {2, 4, 2}).value().name, "interleaved");
  EXPECT_EQ(MakeSchedule("ZB_H1", {2, 4, 1}).value().name, "zb_h1");
}

TEST(MakeSchedule, RefusalsSayWhatWasFoundAndWanted) {
  const auto message = [](const char* name, const PipelineShape& shape) {
    const absl::Status status = MakeSchedule(name, shape).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(message("2f2b", {2, 4, 1}),
            "schedule: found \"2f2b\", wanted gpipe, 1f1b, interleaved, zb_h1, dualpipe or "
            "dualpipe_v");
  EXPECT_EQ(message("1f1b", {2, 4, 2}), "schedule_chunks: found 2, wanted 1 with schedule 1f1b");
  EXPECT_THAT(message("interleaved", {2, 4, 1}), HasSubstr("at least 2"));
  EXPECT_EQ(message("interleaved", {4, 6, 2}),
            "microbatches: found 6, wanted a multiple of mesh.pipe = 4 with schedule interleaved");
  EXPECT_EQ(message("dualpipe", {3, 8, 1}),
            "mesh.pipe: found 3, wanted an even number with schedule dualpipe");
  for (const int n : {7, 6, 9}) {
    EXPECT_EQ(message("DualPipe", {4, n, 1}),
              "microbatches: found " + std::to_string(n) +
                  ", wanted an even number of at least 2 * mesh.pipe = 8 with schedule dualpipe");
  }
  EXPECT_THAT(message("dualpipe", {4, 8, 2}), HasSubstr("wanted 1 with schedule dualpipe"));
  EXPECT_EQ(message("dualpipe_v", {4, 7, 2}),
            "microbatches: found 7, wanted at least 2 * mesh.pipe = 8 with schedule dualpipe_v");
  EXPECT_EQ(message("dualpipe_v", {4, 8, 1}),
            "schedule_chunks: found 1, wanted 2 with schedule dualpipe_v");
  EXPECT_THAT(message("gpipe", {0, 4, 1}), HasSubstr("at least 1"));
  EXPECT_THAT(message("gpipe", {1, 0, 1}), HasSubstr("at least 1"));
  EXPECT_THAT(message("gpipe", {1, 40000, 1}), HasSubstr("32767"));
  EXPECT_THAT(message("interleaved", {1 << 16, 1 << 16, 1 << 16}), HasSubstr("32767"));
}

TEST(MakeSchedule, OneRankOneStageNeedsNoMessages) {
  EXPECT_EQ(ToText(MakeSchedule("1f1b", {1, 3, 1}).value()), "F0.0 B0.0 F0.1 B0.1 F0.2 B0.2\n");
  EXPECT_EQ(ToText(MakeSchedule("gpipe", {1, 2, 1}).value()), "F0.0 F0.1 B0.0 B0.1\n");
  EXPECT_EQ(ToText(MakeSchedule("interleaved", {1, 2, 2}).value()),
            "F0.0 F1.0 B1.0 F0.1 B0.0 F1.1 B1.1 B0.1\n");
}

TEST(InsertCommunication, ReceivesBeforeUseAndSendsAfterProduct) {
  const Schedule schedule = InsertCommunication(testing::MakeOverlapped1F1B(2, 2)).value();
  EXPECT_EQ(ToText(schedule),
            "F0.0 sa0.0 rg0.0 (F0.1|B0.0) sa0.1 rg0.1 B0.1\n"
            "ra1.0 F1.0 B1.0 sg1.0 ra1.1 F1.1 B1.1 sg1.1\n");
}

// Rank 1 sends activations of the first replica and gradients of the second to rank 2 of 4, which
// needs them in another order.
TEST(InsertCommunication, ReceivesInTheOrderOfTheSender) {
  Schedule schedule = MakeGPipe({2, 2, 1}).value();
  schedule.rank_of_stage.push_back({1, 0});
  schedule.replica_of_microbatch = {0, 1};
  schedule.actions = ParseActions("F0.0 F1.1 B1.1 B0.0\nF0.1 B0.1 F1.0 B1.0").value();
  EXPECT_EQ(ToText(InsertCommunication(schedule).value()),
            "F0.0 sa0.0 ra1.1 F1.1 B1.1 sg1.1 rg0.0 B0.0\n"
            "F0.1 sa0.1 ra1.0 rg0.1 B0.1 F1.0 B1.0 sg1.0\n");
}

TEST(InsertCommunication, RefusesWhatItCannotPlace) {
  Schedule schedule = MakeSchedule("1f1b", {2, 2, 1}).value();
  EXPECT_THAT(std::string(InsertCommunication(schedule).status().message()), HasSubstr("sa0.0"));
  schedule = Make1F1B({2, 2, 1}).value();
  schedule.actions[1][0].microbatch = 2;
  EXPECT_THAT(std::string(InsertCommunication(schedule).status().message()), HasSubstr("F1.2"));
}

TEST(ScheduleText, ParsesWhatItPrints) {
  for (const testing::NamedShape& made : testing::AllSmallShapes()) {
    const Schedule schedule = MakeSchedule(made.name, made.shape).value();
    EXPECT_EQ(ParseActions(ToText(schedule)).value(), schedule.actions) << Describe(made);
  }
  const Schedule overlapped = InsertCommunication(testing::MakeOverlapped1F1B(4, 8)).value();
  EXPECT_EQ(ParseActions(ToText(overlapped)).value(), overlapped.actions);
}

TEST(ScheduleText, ARankWithNothingToDoIsAnEmptyLine) {
  const auto actions = ParseActions("F0.0\n\nW12.345 I0.1\n").value();
  ASSERT_EQ(actions.size(), 3u);
  EXPECT_TRUE(actions[1].empty());
  EXPECT_EQ(ToText(actions[2][0]), "W12.345");
}

TEST(ScheduleText, GarbageIsNamed) {
  for (const char* text :
       {"F", "F1", "F1.", "F.1", "F1.2.3", "X1.2", "F-1.2", "F1.-2", "F1.32768", "(F0.1|B1.2",
        "(F0.1)", "(B0.1|F1.2)", "(F0.1|W1.2)", "(F0.1|B1.2|B1.3)", "ra", "f0.0", "F0.0,"}) {
    const auto actions = ParseActions(std::string("F0.0 ") + text);
    EXPECT_EQ(actions.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(actions.status().message()), HasSubstr("found")) << text;
  }
}

TEST(DrawGrid, ShowsIdleTimeAndMarksAPlace) {
  const Schedule schedule = MakeSchedule("1f1b", {2, 2, 1}).value();
  EXPECT_EQ(DrawGrid(schedule),
            "rank 0  F0.0 F0.1 .    .    B0.0----- .    B0.1-----\n"
            "rank 1  .    F1.0 B1.0----- F1.1 B1.1-----\n");
  EXPECT_EQ(DrawGrid(schedule, 0, 3),
            "rank 0  F0.0 F0.1 .    .    B0.0----- .    B0.1-----\n"
            "                  ^ sa0.1, action 3\n"
            "rank 1  .    F1.0 B1.0----- F1.1 B1.1-----\n");
}

TEST(DrawGrid, ShowsWhereRanksAreStuck) {
  Schedule schedule = MakeSchedule("1f1b", {2, 2, 1}).value();
  schedule.actions[0].erase(schedule.actions[0].begin() + 3);  // sa0.1
  EXPECT_EQ(DrawGrid(schedule, 1, 4),
            "rank 0  F0.0 F0.1 .    .    B0.0----- stuck at rg0.1 and 1 more\n"
            "rank 1  .    F1.0 B1.0----- stuck at ra1.1 and 3 more\n"
            "                            ^ ra1.1, action 4\n");
}

// The schedules as text, with their grids. SLUICE_UPDATE_GOLDEN=1 in the environment writes the
// files instead of comparing them; read the difference before committing it.
TEST(ScheduleGolden, TextAndGrid) {
  for (const int ranks : {2, 4, 8}) {
    for (const char* name : {"gpipe", "1f1b", "interleaved", "zb_h1", "dualpipe", "dualpipe_v"}) {
      const testing::NamedShape made = {name, {ranks, 2 * ranks, testing::ChunksOf(name)}};
      const Schedule schedule = MakeSchedule(name, made.shape).value();
      const std::string text = ToText(schedule) + "\n" + DrawGrid(schedule);
      const std::string path =
          sluice::testing::SourcePath("tests/golden/schedules/") + Describe(made) + ".txt";
      if (std::getenv("SLUICE_UPDATE_GOLDEN") != nullptr) {
        std::ofstream(path) << text;
        continue;
      }
      std::stringstream golden;
      golden << std::ifstream(path).rdbuf();
      EXPECT_EQ(text, golden.str()) << path;
    }
  }
}

}  // namespace
}  // namespace sluice::parallel
