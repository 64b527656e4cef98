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

// DeepSeek-V3 ran with pipe 16, expert 64, ZeRO-1, FP8 and DualPipe. The search knows none of this:
// it has both precisions and every ZeRO stage to choose from.
TEST(PlanSearch, FindsDeepSeeksLayoutAmongTheBest) {
  const auto config = LoadConfig({.preset = "deepseek_v3"});
  parallel::PlanRequest request;
  request.model = LoadModelWork(*config).value();
  request.cluster = LoadCluster("h800_2048", 0).value();
  request.tokens = 14.8e12;
  request.global_batch = 15360;
  request.expert_cv = 0.2;
  request.moment_bytes = 2;
  request.precisions = {parallel::Precision::kBf16, parallel::Precision::kFp8};
  request.zero_stages = {0, 1, 2, 3};
  const parallel::Plans plans = parallel::MakePlans(request, 10);
  ASSERT_FALSE(plans.fitting.empty());
  int place = 0, found = 0;
  for (const parallel::PlanEntry& entry : plans.fitting) {
    const parallel::Layout& l = entry.layout;
    ++place;
    if (l.pipe == 16 && l.expert == 64 && l.schedule == "dualpipe" && l.zero == 1 &&
        l.precision == parallel::Precision::kFp8) {
      found = place;
      break;
    }
  }
  EXPECT_GE(found, 1);
  EXPECT_LE(found, 3);
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

// Four experts of 9 rows and four of 1 on two ranks: in order 36 rows of a mean of 20; two of each
// kind make 20. With a copy a rank, two experts of 9 become four of 4.5: 20 again.
TEST(PlanCommand, RoutesShowWhatPlacementGains) {
  const std::string dir = TestFolder();
  std::ofstream(dir + "/r.jsonl") << R"({"step":1,"layer":0,"rows":[9,9,9,9,1,1,1,1]})"
                                  << "\n"
                                  << R"({"step":1,"layer":1,"rows":[2,2,2,2,2,2,2,2]})"
                                  << "\n";
  const std::string flags =
      " --preset tiny --cluster laptop --set mesh.expert=2 --top 1 --routes " + dir + "/r.jsonl";
  const Outcome plan = RunSluice("plan" + flags);
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_THAT(plan.out, HasSubstr("expert placement on 2 ranks of 1 nodes"));
  EXPECT_THAT(plan.out, HasSubstr("     0     1.800     1.000     1.000\n"
                                  "     1     1.000     1.000     1.000\n"
                                  "  mean     1.400     1.000     1.000\n"));
  const Outcome json = RunSluice("plan --json" + flags);
  ASSERT_EQ(json.exit_code, 0) << json.err;
  const nlohmann::json gains = nlohmann::json::parse(json.out)["placement"];
  EXPECT_EQ(gains["ranks"], 2);
  EXPECT_NEAR(gains["layers"][0]["in_order"].get<double>(), 1.8, 1e-12);
  EXPECT_NEAR(gains["layers"][0]["packed"].get<double>(), 1.0, 1e-12);
  EXPECT_NEAR(gains["mean"]["in_order"].get<double>(), 1.4, 1e-12);
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

nlohmann::json PlansOf(const std::string& flags) {
  const Outcome plan = RunSluice(
      "plan --json --preset deepseek_v2_lite --cluster h100 --nodes 1 --set "
      "train.global_batch=128 --tokens 1e12 " +
      flags);
  EXPECT_EQ(plan.exit_code, 0) << plan.err;
  const nlohmann::json json = nlohmann::json::parse(plan.out, nullptr, false);
  return json.is_object() ? json["plans"] : nlohmann::json::array();
}

TEST(PlanCommand, KeepsWhatSetSays) {
  std::set<std::string> precisions;
  for (const auto& entry : PlansOf("--top 1000 --set mesh.pipe=1 --set train.microbatch=1"))
    precisions.insert(entry["precision"]);
  EXPECT_EQ(precisions, (std::set<std::string>{"BF16", "FP8"})) << "without --set";
  const nlohmann::json plans = PlansOf(
      "--top 100 --set compute.precision=BF16 --set mesh.pipe=2 --set mesh.expert=4 --set "
      "train.microbatch=1 --set compute.recompute=norm --set schedule=interleaved --set "
      "schedule_chunks=3");
  ASSERT_EQ(plans.size(), 1u) << "nothing is left open";
  const nlohmann::json& entry = plans[0];
  EXPECT_EQ(entry["precision"], "BF16");
  EXPECT_EQ(entry["mesh"], (nlohmann::json{{"pipe", 2}, {"data", 4}, {"expert", 4}}));
  EXPECT_EQ(entry["microbatch"], 1);
  EXPECT_EQ(entry["recompute"], "norm");
  EXPECT_EQ(entry["schedule"], "interleaved");
  EXPECT_EQ(entry["chunks"], 3);
  for (const auto& other : PlansOf("--top 100 --set mesh.data=4 --set train.microbatch=1"))
    EXPECT_EQ(other["mesh"]["pipe"], 2);
}

TEST(PlanCommand, RefusesWhatItCannotKeep) {
  const std::string plan =
      "plan --preset deepseek_v2_lite --cluster h100 --nodes 1 --set train.global_batch=128 --set ";
  for (const auto& [edits, sentence] : {
           std::pair("mesh.pipe=3",
                     "mesh.pipe: found 3, wanted a divisor of the cluster's 8 ranks"),
           std::pair("mesh.pipe=0", "mesh.pipe: found 0, wanted a divisor"),
           std::pair("mesh.pipe=2 --set mesh.data=2", "mesh.data: found 2, wanted 4"),
           std::pair("mesh.pipe=2 --set mesh.expert=8",
                     "mesh.expert: found 8, wanted a divisor of "
                     "mesh.data = 4"),
           std::pair("train.microbatch=0", "train.microbatch: found 0, wanted at least 1"),
           std::pair("compute.recompute=everything", "compute.recompute: found \"everything\""),
           std::pair("schedule=2f2b", "schedule: found \"2f2b\""),
           std::pair("stage_layers=1,26", "stage_layers: found \"1,26\", wanted nothing"),
           std::pair("schedule=dualpipe_v --set schedule_chunks=3", "found no layout to try"),
       }) {
    const Outcome outcome = RunSluice(plan + edits);
    EXPECT_EQ(outcome.exit_code, 1) << edits;
    EXPECT_THAT(outcome.err, HasSubstr(sentence));
  }
}

TEST(PlanCommand, LeavesOutWhatCostsOrTakesTooMuch) {
  const nlohmann::json all = PlansOf("--top 2");
  ASSERT_EQ(all.size(), 2u);
  ASSERT_LT(all[0]["dollars"].get<double>(), all[1]["dollars"].get<double>());
  const auto between = [&](const char* key) {
    return std::to_string((all[0][key].get<double>() + all[1][key].get<double>()) / 2);
  };
  EXPECT_EQ(PlansOf("--budget " + between("dollars")).size(), 1u);
  EXPECT_EQ(PlansOf("--deadline " + between("days")).size(), 1u);
  const std::string plan =
      "plan --preset deepseek_v2_lite --cluster h100 --nodes 1 --set train.global_batch=128 "
      "--tokens 1e12 ";
  const Outcome poor = RunSluice(plan + "--budget 1");
  EXPECT_EQ(poor.exit_code, 1);
  EXPECT_THAT(poor.out, HasSubstr("  costs more than the budget\n"));
  const Outcome late = RunSluice(plan + "--deadline 0.1");
  EXPECT_EQ(late.exit_code, 1);
  EXPECT_THAT(late.out, HasSubstr("  takes longer than the deadline\n"));
}

TEST(PlanCommand, TriesTheZeroStagesThatAreAskedFor) {
  std::set<int> stages;
  for (const auto& entry :
       PlansOf("--top 1000 --set mesh.pipe=2 --set compute.recompute=none --zero 0,3"))
    stages.insert(entry["zero"].get<int>());
  EXPECT_EQ(stages, (std::set<int>{0, 3}));
  const std::string file = TestFolder() + "/plan.textproto";
  const std::string plan =
      "plan --preset deepseek_v2_lite --cluster h100 --nodes 1 --set train.global_batch=128 "
      "--zero ";
  const Outcome refused = RunSluice(plan + "3 --write " + file);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err,
              HasSubstr("--write: found ZeRO stage 3 in the fastest layout, wanted 1"));
  EXPECT_EQ(ReadAll(file), "");
  const Outcome bad = RunSluice(plan + "1,4");
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_THAT(bad.err, HasSubstr("--zero: found \"4\", wanted stages of 0 to 3"));
}

}  // namespace
}  // namespace sluice::launch
