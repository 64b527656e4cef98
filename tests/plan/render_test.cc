// What eyes and other programs get of a simulated step.
#include "parallel/sim/render.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "parallel/schedule/schedule.h"
#include "tests/plan/test_schedules.h"

namespace sluice::parallel {
namespace {

Timeline Small() {
  const Schedule schedule = MakeSchedule("1f1b", {2, 2, 1}).value();
  const StepCosts costs = testing::EvenCosts(2, 1, 1, 1);
  return Simulate({.schedule = &schedule, .costs = &costs}).value();
}

// Three groups of which the second has a rank at a third of the speed, and a tail.
Timeline WithStragglerAndTail() {
  const Schedule schedule = MakeSchedule("1f1b", {2, 2, 1}).value();
  StepCosts costs = testing::EvenCosts(2, 1, 1, 1);
  costs.tails = {{.reduce_gradients = 2, .optimizer = 1, .gather_parameters = 1},
                 {.reduce_gradients = 1, .optimizer = 1, .gather_parameters = 0}};
  return Simulate({.schedule = &schedule,
                   .costs = &costs,
                   .groups = 3,
                   .stragglers = {{.rank = 4, .factor = 3}}})  // pipeline rank 1 of group 1
      .value();
}

TEST(Render, GanttIsTheGrid) {
  EXPECT_EQ(DrawGantt(Small(), 9),
            "   0 |FF..BB.BB|\n"
            "   1 |.FBBFBB..|\n"
            "      F forward, B backward, . idle\n");
}

// F3 B6 F3 B6 of the slow rank from second 1 on, the other's last B2; then its own tail each.
TEST(Render, GanttShowsTheGroupThatEndsLastAndTheTail) {
  EXPECT_EQ(DrawGantt(WithStragglerAndTail(), 25),
            "group 1 of 3, which ends last\n"
            "   0 |FF........BB.......BBrrog|\n"
            "   1 |.FFFBBBBBBFFFBBBBBB..ro..|\n"
            "      F forward, B backward, r gradients reduced, o optimizer, g parameters gathered, "
            ". idle\n");
}

TEST(Render, ChromeTraceHasEveryActionOnce) {
  const Timeline timeline = Small();
  const nlohmann::json trace = nlohmann::json::parse(ToChromeTrace(timeline));
  int complete = 0;
  double last = 0;
  for (const auto& event : trace["traceEvents"]) {
    if (event["ph"] != "X") continue;
    ++complete;
    last = std::max(last, event["ts"].get<double>() + event["dur"].get<double>());
  }
  EXPECT_EQ(complete, 8);
  EXPECT_DOUBLE_EQ(last, timeline.pipeline_seconds * 1e6);
}

TEST(Render, ChromeTraceHasTheTailsOfAllGroups) {
  const Timeline timeline = WithStragglerAndTail();
  const nlohmann::json trace = nlohmann::json::parse(ToChromeTrace(timeline));
  std::map<std::string, int> count;
  double last = 0;
  for (const auto& event : trace["traceEvents"]) {
    if (event["ph"] != "X") continue;
    ++count[event["name"].get<std::string>()];
    last = std::max(last, event["ts"].get<double>() + event["dur"].get<double>());
  }
  EXPECT_EQ(count["gradients reduced"], 6);
  EXPECT_EQ(count["optimizer"], 6);
  EXPECT_EQ(count["parameters gathered"], 3);  // pipeline rank 0's only
  EXPECT_EQ(count["F1.0"], 3);
  EXPECT_DOUBLE_EQ(last, timeline.step_seconds * 1e6);
}

int CountOf(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != text.npos; ++at) ++count;
  return count;
}

TEST(Render, SvgHasARectangleAnAction) {
  const std::string svg = ToSvg(Small());
  EXPECT_EQ(CountOf(svg, "<title>"), 8);
  EXPECT_EQ(CountOf(svg, ">forward<"), 1);
  EXPECT_EQ(CountOf(svg, "nan"), 0);
  EXPECT_EQ(CountOf(svg, "group"), 0) << "there is one only";
  const std::string slow = ToSvg(WithStragglerAndTail());
  EXPECT_EQ(CountOf(slow, "<title>"), 8 + 3 + 2);
  EXPECT_EQ(CountOf(slow, "<title>B1.0 6000.000 ms"), 1) << "a group without the straggler";
  EXPECT_EQ(CountOf(slow, "group 1 of 3, which ends last"), 1);
}

}  // namespace
}  // namespace sluice::parallel
