// The plan beside each step of a run, and the routes that a run writes for the planner.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/launch/json_rows.h"
#include "tests/launch/tiny_run.h"

namespace sluice::launch {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class PlannedRun : public TinyRunTest {};

TEST_F(PlannedRun, StepsShowThePlanAndWriteRoutesThatPlanAndSimulateRead) {
  const std::string routes = dir_ + "/routes.jsonl";
  const std::vector<std::string> edits = {"mesh.data=2", "mesh.expert=2", "run.routes=" + routes};
  std::vector<std::string> first = edits;
  first.push_back("train.steps=3");
  const Outcome run = RunShell(TrainCommand("a", 2, first));
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("planned on this machine: "));
  EXPECT_THAT(run.out, HasSubstr(" | plan "));
  for (const json& row : JsonRows(RunDir("a") + "/metrics.jsonl")) {
    EXPECT_GT(row["planned_step_seconds"].get<double>(), 0);
    EXPECT_GT(row["memory_bytes"]["parameters"].get<int64_t>(), 0);
    EXPECT_GT(row["planned_memory_bytes"]["activations"].get<int64_t>(), 0);
  }
  // Two gates and the prediction module's; a run that resumes appends.
  std::vector<json> lines = JsonRows(routes);
  ASSERT_EQ(lines.size() % 3, 0u);
  const size_t gates = lines.size() / 3;
  int64_t total = 0;
  for (const auto& rows : lines[0]["rows"]) total += rows.get<int64_t>();
  for (const json& line : lines) {
    ASSERT_EQ(line["rows"].size(), 4u);
    int64_t sum = 0;
    for (const auto& rows : line["rows"]) sum += rows.get<int64_t>();
    EXPECT_GT(sum, 0);
    EXPECT_EQ(sum % 2, 0);  // every token has two experts
  }
  std::vector<std::string> longer = edits;
  longer.push_back("train.steps=5");
  ASSERT_EQ(RunShell(TrainCommand("a", 2, longer)).exit_code, 0);
  EXPECT_EQ(JsonRows(routes).size(), 5 * gates);

  const std::string config = " --config " + RunDir("a") + "/config.textproto --cluster laptop";
  const Outcome plan = RunSluice("plan --routes " + routes + config);
  ASSERT_EQ(plan.exit_code, 0) << plan.err << plan.out;
  EXPECT_THAT(plan.out, HasSubstr("expert placement"));
  const auto step = [&](const std::string& more) {
    const Outcome played = RunSluice("simulate --json" + config + more);
    EXPECT_EQ(played.exit_code, 0) << played.err;
    return json::parse(played.out)["step_seconds"].get<double>();
  };
  // Uneven loads take longer than even ones: the exchange waits for the fuller rank.
  EXPECT_GT(step(" --routes " + routes), step(""));
}

// One rank gets all rows, so that nothing is assumed: every kind of memory is what was planned, to
// the byte, but for what kernels take for themselves.
TEST_F(PlannedRun, MemoryIsThePlannedOnEachStep) {
  const Outcome run = RunShell(TrainCommand("a", 1, {"train.steps=2", "eval.every=0"}));
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const std::vector<json> rows = JsonRows(RunDir("a") + "/metrics.jsonl");
  ASSERT_EQ(rows.size(), 2u);
  for (const json& row : rows) {
    json planned_bytes = row["planned_memory_bytes"], bytes = row["memory_bytes"];
    planned_bytes.erase("scratch");
    bytes.erase("scratch");
    EXPECT_EQ(planned_bytes, bytes);
    double parts = 0;
    for (const auto& [part, seconds] : row["seconds"].items()) {
      EXPECT_GT(seconds.get<double>(), 0) << part;
      parts += seconds.get<double>();
    }
    EXPECT_LE(parts, row["step_seconds"].get<double>());
    double planned = 0;
    for (const auto& [part, seconds] : row["planned_seconds"].items())
      planned += seconds.get<double>();
    EXPECT_NEAR(planned, row["planned_step_seconds"].get<double>(), 1e-9);
  }
}

TEST_F(PlannedRun, AClusterFileThatIsNoneIsSaid) {
  const std::string file = dir_ + "/machine.textproto";
  std::ofstream(file) << "name: \"x\"\ndevice { peak: 3 }\n";
  Outcome run = RunShell(TrainCommand("a", 1, {"run.cluster=" + file}));
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.err, HasSubstr("run.cluster: " + file + ":2: "));
  run = RunShell(TrainCommand("a", 1, {"run.cluster=" + dir_ + "/none"}));
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.err, HasSubstr("wanted a cluster file that can be read"));
}

}  // namespace
}  // namespace sluice::launch
