// Every schedule on real text, by the real program over MPI: a first step with the loss of one
// rank, to the bit, and twenty steps whose losses stay with it.
#include <cmath>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/launch/json_rows.h"
#include "tests/launch/tiny_run.h"

namespace sluice::launch {
namespace {

struct Case {
  const char* schedule;
  int pipe, data, expert;
};

constexpr Case kCases[] = {
    {"gpipe", 4, 1, 1}, {"1f1b", 4, 1, 1},     {"interleaved", 4, 1, 1},
    {"zb_h1", 4, 1, 1}, {"dualpipe", 4, 1, 1}, {"dualpipe_v", 4, 1, 1},
    {"gpipe", 2, 2, 2}, {"1f1b", 2, 2, 2},     {"interleaved", 2, 2, 2},
    {"zb_h1", 2, 2, 2}, {"dualpipe", 2, 2, 2}, {"dualpipe_v", 2, 2, 2},
};

struct Losses {
  std::string first;  // of step 1, exact
  std::vector<double> all;
};

class SlowSchedules : public TinyRunTest {
 protected:
  Losses LossesOf(const std::string& name, const std::vector<std::string>& edits) {
    std::string start = SLUICE_BINARY;
    const bool one_rank = edits.empty();
    if (!one_rank) start = testing::SourcePath("launch/run -np 4 ") + SLUICE_BINARY;
    const std::vector<std::string> common = {"model.num_hidden_layers=8",
                                             "model.first_k_dense_replace=1",
                                             "model.hidden_size=32",
                                             "model.intermediate_size=64",
                                             "model.moe_intermediate_size=16",
                                             "model.n_shared_experts=1",
                                             "model.n_routed_experts=4",
                                             "model.kv_lora_rank=16",
                                             "model.initializer_range=0.05",
                                             "model.num_nextn_predict_layers=1",
                                             "train.global_batch=16",
                                             "train.sequence_length=32",
                                             "train.steps=20",
                                             "eval.batches=1",
                                             "compute.threads=1",
                                             "data.cache_dir=" + dir_ + "/cache",
                                             "run.dir=" + RunDir(name)};
    const Outcome outcome = RunShell(start + " train --preset tiny" + Sets(common) + Sets(edits));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    Losses losses;
    for (const auto& row : JsonRows(RunDir(name) + "/metrics.jsonl")) {
      if (losses.all.empty()) losses.first = row["loss_hex"];
      losses.all.push_back(row["loss"]);
    }
    EXPECT_EQ(losses.all.size(), 20u) << name;
    return losses;
  }
};

// The preset's text is the bundled one. FP32; the bound is that of the layout-parity test.
TEST_F(SlowSchedules, LossesOfTwentyStepsStayTogether) {
  const Losses one = LossesOf("one", {});
  ASSERT_EQ(one.all.size(), 20u);
  EXPECT_LT(one.all[19], one.all[0] - 0.1);
  for (const Case& c : kCases) {
    const std::string name = std::string(c.schedule) + "_pipe" + std::to_string(c.pipe) +
                             "_expert" + std::to_string(c.expert);
    const Losses losses = LossesOf(
        name, {std::string("schedule=") + c.schedule, "mesh.pipe=" + std::to_string(c.pipe),
               "mesh.data=" + std::to_string(c.data), "mesh.expert=" + std::to_string(c.expert)});
    ASSERT_EQ(losses.all.size(), 20u) << name;
    EXPECT_EQ(losses.first, one.first) << name;
    double worst = 0;
    for (int step = 0; step < 20; ++step) {
      worst = std::max(worst, std::abs(losses.all[step] - one.all[step]) / one.all[step]);
    }
    EXPECT_LE(worst, 1e-4) << name;
    std::printf("%-28s loss %.6f after 20 steps, differs by at most %.1e relative\n", name.c_str(),
                losses.all[19], worst);
  }
}

}  // namespace
}  // namespace sluice::launch
