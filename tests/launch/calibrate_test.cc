// doctor --calibrate as a program, and the figures of tests/bench/plan_truth.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "launch/calibrate_ops.h"
#include "launch/plan_input.h"
#include "tests/launch/run_program.h"
#include "tests/support/source_path.h"

namespace sluice::launch {
namespace {

using ::testing::HasSubstr;

// What is written is read back by plan and simulate. Rates have no expected values, only bounds
// that no machine leaves.
TEST(Calibrate, WritesAClusterFileThatSimulateReads) {
  const std::string folder = TestFolder(), file = folder + "/here.textproto";
  const Outcome outcome =
      RunShell(testing::SourcePath("launch/run") + " -np 2 " SLUICE_BINARY " doctor --calibrate " +
               file + " --preset tiny --set compute.threads=1 --set train.sequence_length=32");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, ReadAll(file));
  const auto cluster = LoadCluster(file, 0);
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  EXPECT_EQ(cluster->name, "here");
  EXPECT_EQ(cluster->network.ranks_per_node, 2);
  EXPECT_GE(cluster->cores_per_node, 1);
  EXPECT_GT(cluster->device.peak_bf16, 1e8);
  EXPECT_GT(cluster->device.peak_fp32, 1e8);
  EXPECT_GT(cluster->device.optimizer_parameters_per_second, 1e6);
  EXPECT_GT(cluster->device.packed_parameters_per_second, 1e6);
  EXPECT_GT(cluster->device.cleared_parameters_per_second, 1e6);
  EXPECT_LT(cluster->device.op_seconds, 1e-3);
  EXPECT_GT(cluster->network.inside.reduction_rate, 1e6);
  EXPECT_GT(cluster->network.inside.gather_rate, 1e6);
  EXPECT_GT(cluster->network.inside.message_rate, 1e6);
  EXPECT_GE(cluster->network.inside.message_latency, 0);
  EXPECT_GT(cluster->network.inside.bytes_per_second, 1e6);
  EXPECT_LT(cluster->network.inside.bytes_per_second, 1e12);
  // Two ranks of the mesh on the file's cores, then four: they share.
  const auto step = [&](int data) {
    const Outcome played =
        RunSluice("simulate --json --preset tiny --cluster " + file +
                  " --set mesh.pipe=1 --set mesh.data=" + std::to_string(data) +
                  " --set train.microbatch=1 --set train.global_batch=" + std::to_string(4 * data));
    EXPECT_EQ(played.exit_code, 0) << played.err;
    return nlohmann::json::parse(played.out)["step_seconds"].get<double>();
  };
  const int cores = cluster->cores_per_node;
  EXPECT_GT(step(4 * cores), 1.9 * step(2 * cores));
}

TEST(Calibrate, SaysWhyItCannotWrite) {
  const Outcome outcome =
      RunSluice("doctor --calibrate /nowhere/x.textproto --preset tiny --set compute.threads=1");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("/nowhere/x.textproto: cannot be written"));
}

// 100 flops in 2 seconds, of which 50 bytes take one at 50 a second; at 10 a second they would take
// longer than all of it, so they came from caches.
TEST(Calibrate, RatesOfProducts) {
  const ProductTimes times{.flops = 100,
                           .forward_bytes = 50,
                           .weight_bytes = 100,
                           .forward_seconds = 2,
                           .weight_seconds = 6};
  EXPECT_DOUBLE_EQ(times.Rate(50), 100);
  EXPECT_DOUBLE_EQ(times.Rate(10), 50);
  EXPECT_DOUBLE_EQ(times.WeightFactor(100, 50), 6 / (1 + 2.0));
}

// Errors of +10, -20, 0 and +30 percent: the median of their sizes is 15. Places of the predicted
// times 1.1 0.8 3 5.2 against 1 1 3 4: 2 1 3 4 against 1.5 1.5 3 4, whose correlation is
// 4.5 / sqrt(5 * 4.5); of the two that are among the first layouts it is 1.
TEST(PlanTruth, FiguresOfGivenTimes) {
  const std::string folder = TestFolder(), file = folder + "/in.json", to = folder + "/out.json";
  std::ofstream(file) << R"({"layouts": [{"name": "data 2", "predicted": 1.1, "measured": 1.0},
      {"name": "b", "predicted": 0.8, "measured": 1.0}, {"name": "c", "predicted": 3, "measured": 3},
      {"name": "pipe 1 FP32", "predicted": 5.2, "measured": 4}]})";
  const Outcome outcome = RunShell(testing::SourcePath("tests/bench/plan_truth") + " --judge " +
                                   file + " --json " + to);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("+30.0%"));
  EXPECT_THAT(outcome.out, HasSubstr("slowest / fastest"));
  const auto figures = nlohmann::json::parse(ReadAll(to));
  EXPECT_NEAR(figures["median_error"].get<double>(), 0.15, 1e-9);
  EXPECT_NEAR(figures["spearman"].get<double>(), 4.5 / std::sqrt(5 * 4.5), 1e-12);
  EXPECT_NEAR(figures["spearman_of_first"].get<double>(), 1, 1e-12);
  EXPECT_NEAR(figures["span"].get<double>(), 4.0, 1e-12);
}

}  // namespace
}  // namespace sluice::launch
