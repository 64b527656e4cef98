#include "trainer/loop/step_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "nlohmann/json.hpp"

namespace sluice::trainer {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

StepReport Report(int64_t step) {
  StepReport report;
  report.step = step;
  report.steps = 1000;
  report.result.loss = 1.0 / 3;
  report.result.mtp_loss = 2.5;
  report.result.grad_norm = 0.7;
  report.result.num_targets = 4096;
  report.result.load = {4, 0, 4, 8};
  report.learning_rate = 3e-4;
  report.seconds = 0.5;
  report.num_experts = 4;
  report.eta_seconds = 3725;
  return report;
}

TEST(SummarizeLoad, TakesTheWorstGateAndCountsExpertsThatNoTokenChose) {
  const LoadSummary one = SummarizeLoad({1, 1, 2, 0}, 4);
  EXPECT_DOUBLE_EQ(one.max_over_mean, 2);
  EXPECT_EQ(one.dead_experts, 1);
  const LoadSummary two = SummarizeLoad({1, 1, 1, 1, 0, 0, 0, 12}, 4);
  EXPECT_DOUBLE_EQ(two.max_over_mean, 4);
  EXPECT_EQ(two.dead_experts, 3);
  EXPECT_DOUBLE_EQ(SummarizeLoad({}, 0).max_over_mean, 1);
  EXPECT_DOUBLE_EQ(SummarizeLoad({0, 0}, 2).max_over_mean, 1);
}

TEST(StepJson, HasTheFieldsThatScriptsRelyOn) {
  const auto row = nlohmann::json::parse(StepJson(Report(17)));
  EXPECT_EQ(row["step"], 17);
  EXPECT_EQ(row["loss"], 1.0 / 3);
  EXPECT_EQ(row["mtp_loss"], 2.5);
  EXPECT_EQ(row["grad_norm"], 0.7);
  EXPECT_EQ(row["learning_rate"], 3e-4);
  EXPECT_EQ(row["tokens_per_second"], 8192.0);
  EXPECT_EQ(row["step_seconds"], 0.5);
  EXPECT_EQ(row["expert_load_max_over_mean"], 2.0);
  EXPECT_EQ(row["skipped"], false);
  // The hexadecimal forms are exact.
  EXPECT_EQ(std::strtod(row["loss_hex"].get<std::string>().c_str(), nullptr), 1.0 / 3);
  EXPECT_EQ(std::strtod(row["grad_norm_hex"].get<std::string>().c_str(), nullptr), 0.7);
  EXPECT_THAT(StepJson(Report(17)), Not(HasSubstr("\n")));
}

TEST(StepLine, ThePlanStandsBesideWhatWasMeasured) {
  kernels::MemoryTable table;
  table.Add(kernels::MemoryTag::kGradients, 3 << 20);
  table.Add(kernels::MemoryTag::kScratch, 1 << 20);
  PlannedStep planned;
  planned.seconds = 0.4321;
  planned.memory.gradients = 2 << 20;
  StepReport report = Report(3);
  EXPECT_THAT(StepLine(report), Not(HasSubstr("plan")));
  report.planned = &planned;
  report.memory = &table;
  EXPECT_THAT(StepLine(report), HasSubstr("plan    432.1 ms      2 MiB, has      4"));
  const auto row = nlohmann::json::parse(StepJson(report));
  EXPECT_EQ(row["planned_step_seconds"], 0.4321);
  EXPECT_EQ(row["planned_memory_bytes"]["gradients"], 2 << 20);
  EXPECT_EQ(row["memory_bytes"]["gradients"], 3 << 20);
  EXPECT_EQ(row["memory_bytes"]["scratch"], 1 << 20);
}

TEST(RouteLines, OneForEachGate) {
  EXPECT_EQ(RouteLines(7, {1, 2, 3, 40}, 2, 3),
            "{\"step\": 7, \"layer\": 3, \"rows\": [1, 2]}\n"
            "{\"step\": 7, \"layer\": 4, \"rows\": [3, 40]}\n");
  EXPECT_EQ(RouteLines(7, {}, 0, 0), "");
}

TEST(StepJson, ANumberThatIsNotFiniteStaysJson) {
  StepReport report = Report(3);
  report.result.loss = std::nan("");
  report.result.grad_norm = std::numeric_limits<double>::infinity();
  report.result.skipped = true;
  const auto row = nlohmann::json::parse(StepJson(report), nullptr, false);
  ASSERT_TRUE(row.is_object());
  EXPECT_TRUE(row["loss"].is_null());
  EXPECT_TRUE(std::isnan(std::strtod(row["loss_hex"].get<std::string>().c_str(), nullptr)));
  EXPECT_EQ(row["grad_norm_hex"], "inf");
  EXPECT_EQ(row["skipped"], true);
}

TEST(StepLine, ColumnsStandUnderEachOther) {
  StepReport early = Report(1), late = Report(1000);
  early.result.loss = 11.25;
  early.result.grad_norm = 123.4;
  early.seconds = 12;
  const std::string a = StepLine(early), b = StepLine(late);
  size_t from = 0;
  for (int column = 0; column < 8; ++column) {
    from = a.find(" | ", from + 1);
    ASSERT_NE(from, std::string::npos);
    EXPECT_EQ(b.substr(from, 3), " | ") << a << "\n" << b;
  }
  EXPECT_THAT(a, HasSubstr("step    1/1000"));
  EXPECT_THAT(a, HasSubstr("eta 1h02m"));
  EXPECT_THAT(a, Not(HasSubstr("SKIPPED")));
  EXPECT_THAT(a, Not(HasSubstr("peak")));  // unknown
  late.result.skipped = true;
  late.peak_flops = 1e9;
  late.flops_per_token = 1e4;
  EXPECT_THAT(StepLine(late), HasSubstr("SKIPPED"));
  EXPECT_THAT(StepLine(late), HasSubstr("peak  8.2%"));
}

TEST(StepReport, NoTimeGivesNoThroughput) {
  StepReport report = Report(1);
  report.seconds = 0;
  EXPECT_EQ(report.tokens_per_second(), 0);
  EXPECT_EQ(report.share_of_peak(), 0);
}

}  // namespace
}  // namespace sluice::trainer
