// What eyes and other programs get of a simulated step.
#include "parallel/sim/render.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/plan/test_schedules.h"

namespace sluice::parallel {
namespace {

Timeline Small() {
  const Schedule schedule = MakeSchedule("1f1b", {2, 2, 1}).value();
  const StepCosts costs = testing::EvenCosts(2, 1, 1, 1);
  return Simulate({.schedule = &schedule, .costs = &costs}).value();
}

TEST(Render, GanttIsTheGrid) {
  EXPECT_EQ(DrawGantt(Small(), 9),
            "   0 |FF..BB.BB|\n"
            "   1 |.FBBFBB..|\n");
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

TEST(Render, SvgHasARectangleAnAction) {
  const std::string svg = ToSvg(Small());
  int rectangles = 0;
  for (size_t at = 0; (at = svg.find("<title>", at)) != svg.npos; ++at) ++rectangles;
  EXPECT_EQ(rectangles, 8);
  EXPECT_EQ(svg.find("nan"), svg.npos);
}

}  // namespace
}  // namespace sluice::parallel
