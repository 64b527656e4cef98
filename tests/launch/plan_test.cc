// The planner on real models and clusters: published runs, the search, the commands.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "launch/load_config.h"
#include "launch/plan_input.h"
#include "launch/presets.h"
#include "tests/launch/run_program.h"
#include "trainer/loop/rehearsal.h"
#include "trainer/loop/trainer.h"

namespace sluice::launch {
namespace {

using ::testing::HasSubstr;

// The bounds are the project's targets, written in each file; no number is fitted to these runs.
// What misses its target is named here, so that it is noticed when that ends.
TEST(PublishedRuns, PredictedWithinTheirTargets) {
  const std::set<std::string> misses = {};
  const auto checks = CheckPublishedRuns(0.2);
  ASSERT_TRUE(checks.ok()) << checks.status();
  int held = 0;
  for (const PublishedCheck& check : *checks) {
    EXPECT_FALSE(check.run.source().empty()) << check.run.name();
    if (check.run.target() == 0) continue;
    ASSERT_EQ(check.not_checkable, "") << check.run.name();
    EXPECT_EQ(std::abs(check.error()) > check.run.target(), misses.count(check.run.name()) > 0)
        << check.run.name() << " " << check.error();
    ++held;
  }
  EXPECT_GE(held, 5);
}

// DeepSeek-V3 ran with pipe 16, expert 64, ZeRO-1 and DualPipe. The search knows none of this.
TEST(PlanSearch, FindsDeepSeeksLayoutAmongTheBest) {
  const auto config = LoadConfig({.preset = "deepseek_v3"});
  parallel::PlanRequest request;
  request.model = LoadModelWork(*config).value();
  request.cluster = LoadCluster("h800_2048", 0).value();
  request.tokens = 14.8e12;
  request.global_batch = 15360;
  request.expert_cv = 0.2;
  request.moment_bytes = 2;
  request.precisions = {parallel::Precision::kFp8};
  const parallel::Plans plans = parallel::MakePlans(request, 10);
  ASSERT_FALSE(plans.fitting.empty());
  bool found = false;
  for (const parallel::PlanEntry& entry : plans.fitting) {
    const parallel::Layout& l = entry.layout;
    found |= l.pipe == 16 && l.expert == 64 && l.schedule == "dualpipe" && l.zero == 1;
  }
  EXPECT_TRUE(found);
}

TEST(Clusters, AllAreReadable) {
  for (const Preset& cluster : Clusters()) {
    const auto loaded = LoadCluster(cluster.name, 0);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(loaded->name, cluster.name);
  }
  EXPECT_EQ(LoadCluster("h100", 3)->nodes, 3);
  EXPECT_THAT(std::string(LoadCluster("h101", 0).status().message()), HasSubstr("h100"));
}

TEST(Simulate, DrawsAndWrites) {
  const std::string dir = TestFolder();
  const Outcome unit = RunSluice(
      "simulate --preset tiny --set mesh.pipe=2 --set train.global_batch=2 --set "
      "train.microbatch=1 --width 18 --svg " +
      dir + "/a.svg --trace " + dir + "/a.json");
  ASSERT_EQ(unit.exit_code, 0) << unit.err;
  EXPECT_THAT(unit.out, HasSubstr("|FFFF....BBBB..BBBB|"));
  EXPECT_THAT(ReadAll(dir + "/a.svg"), HasSubstr("<svg"));
  EXPECT_TRUE(nlohmann::json::accept(ReadAll(dir + "/a.json")));
  const Outcome real = RunSluice(
      "simulate --preset deepseek_v3 --cluster h800_2048 --json --set mesh.pipe=16 --set "
      "mesh.expert=64 --set schedule=dualpipe --straggler 2047=1.5");
  ASSERT_EQ(real.exit_code, 0) << real.err;
  const nlohmann::json json = nlohmann::json::parse(real.out);
  EXPECT_EQ(json["ranks"], 2048);
  EXPECT_EQ(json["pipelines"].size(), 32u);
  EXPECT_EQ(json["slowest_group"], 1);  // of two, the straggler's
  EXPECT_EQ(json["tails"].size(), 16u);
  EXPECT_GT(json["tail"]["reduce_gradients"].get<double>(), 0);
  // The stages are those that train would cut: the head makes the last one long.
  const auto step = [](const std::string& layers) {
    const Outcome cut = RunSluice(
        "simulate --json --preset bench_cpu --cluster laptop --set mesh.pipe=2 --set "
        "mesh.data=1 --set train.microbatch=1 --set stage_layers=" +
        layers);
    EXPECT_EQ(cut.exit_code, 0) << cut.err;
    return nlohmann::json::parse(cut.out)["step_seconds"].get<double>();
  };
  EXPECT_GT(step("1,3"), step("3,1"));
  EXPECT_THAT(
      RunSluice(
          "simulate --preset bench_cpu --cluster laptop --set mesh.data=1 --set stage_layers=3")
          .err,
      HasSubstr("stage_layers: found \"3\""));
  const Outcome bad = RunSluice("simulate --preset tiny --straggler x");
  EXPECT_NE(bad.exit_code, 0);
  EXPECT_THAT(bad.err, HasSubstr("--straggler: found \"x\", wanted RANK=FACTOR"));
}

TEST(PlanCommand, WritesAConfigThatTrainTakes) {
  const std::string dir = TestFolder();
  const std::string file = dir + "/plan.textproto";
  const Outcome plan =
      RunSluice("plan --preset tiny --cluster laptop --tokens 1e6 --write " + file);
  ASSERT_EQ(plan.exit_code, 0) << plan.err << plan.out;
  EXPECT_THAT(plan.out, HasSubstr("layouts tried"));
  EXPECT_THAT(plan.out, ::testing::Not(HasSubstr(" 0.0    0.0"))) << "megabytes show";
  EXPECT_THAT(ReadAll(file), HasSubstr("stage_layers: \""));
  const Outcome dry = RunSluice("train --dry-run --config " + file);
  EXPECT_EQ(dry.exit_code, 0) << dry.err;
}

TEST(PlanCommand, MemoryOnCpusIsWhatARehearsalTakes) {
  const std::string folder = TestFolder(), file = folder + "/plan.textproto";
  const std::string flags = " --preset tiny --cluster laptop --set train.global_batch=8";
  const Outcome plan = RunSluice("plan --json --top 1 --write " + file + flags);
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  const auto entry =
      nlohmann::json::parse(plan.out.substr(0, plan.out.rfind("written:")))["plans"][0];
  const auto config = trainer::Resolve(LoadConfig({.file = file}).value(), 2);
  ASSERT_TRUE(config.ok()) << config.status();
  const auto use = trainer::Rehearse(*config, {.pipe_rank = entry["fullest_rank"].get<int>(),
                                               .sequences = 8,
                                               .row_factor = entry["row_factor"].get<double>()});
  ASSERT_TRUE(use.ok()) << use.status();
  const auto& bytes = entry["memory_bytes"];
  EXPECT_EQ(bytes["parameters"].get<double>(), use->parameters);
  EXPECT_EQ(bytes["activations"].get<double>(), use->activations);
  EXPECT_EQ(bytes["total"].get<double>(), use->total());
}

TEST(PlanCommand, RoutesShowWhatPlacementGains) {
  const std::string dir = TestFolder();
  std::ofstream(dir + "/r.jsonl") << "{\"step\":1,\"layer\":0,\"rows\":[9,9,9,9,1,1,1,1]}\n";
  const Outcome bad =
      RunSluice("plan --preset deepseek_v3 --cluster h800_2048 --routes " + dir + "/r.jsonl");
  EXPECT_NE(bad.exit_code, 0);
  EXPECT_THAT(bad.err, HasSubstr("--routes: found 8 experts a line, wanted 256"));
}

TEST(PlanCommand, SaysWhyNothingFits) {
  const Outcome plan =
      RunSluice("plan --preset deepseek_v3 --cluster h100 --nodes 1 --set train.global_batch=64");
  EXPECT_EQ(plan.exit_code, 1);
  EXPECT_THAT(plan.out, HasSubstr("nearest to fitting"));
  EXPECT_THAT(plan.err, HasSubstr("no layout fits"));
}

}  // namespace
}  // namespace sluice::launch
