// What a training step takes from the heap and from the system once its buffers have their sizes:
// everything in the process between two step lines of a real run (reading the batch, the step, the
// line and metrics.jsonl included), on all threads.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "launch/load_config.h"
#include "launch/rank_context.h"
#include "parallel/comm/communicator.h"
#include "tests/heap/heap_counter.h"
#include "tests/trainer/one_rank.h"
#include "trainer/loop/resolve_config.h"
#include "trainer/loop/trainer.h"

namespace sluice::trainer {
namespace {

using ::sluice::testing::HeapUse;

constexpr int kSteps = 48;

// Of each step of a run of preset tiny on one rank.
std::vector<HeapUse> RunSteps(const std::string& precision) {
  std::string dir = ::testing::TempDir() + "sluice-XXXXXX";
  CHECK(mkdtemp(dir.data()) != nullptr);
  std::ofstream text(dir + "/text.txt");
  for (int i = 0; i < 2000; ++i) text << "The square of " << i << " is " << i * i << ".\n";
  text.close();
  launch::ConfigFlags flags;
  flags.preset = "tiny";
  flags.edits = {absl::StrCat("compute.precision=", precision),
                 absl::StrCat("data.train=", dir, "/text.txt"),
                 absl::StrCat("train.steps=", kSteps),
                 "data.bundled_sample=false",
                 "compute.threads=2",
                 absl::StrCat("run.dir=", dir, "/run")};
  const auto written = launch::LoadConfig(flags);
  CHECK(written.ok()) << written.status().ToString();
  const auto config = Resolve(*written, 1);
  CHECK(config.ok()) << config.status().ToString();
  const auto device = launch::CreateDevice(config->compute(), launch::CommandContext()).value();
  const auto world = parallel::CreateSelfCommunicator();
  std::vector<HeapUse> steps;
  steps.reserve(kSteps);
  RankContext rank;
  rank.world = world.get();
  rank.device = device.get();
  rank.print = [&](const std::string& line) {
    if (line.rfind("step ", 0) == 0 && line.find("| loss") != std::string::npos)
      steps.push_back(::sluice::testing::TakeHeapUse());
  };
  EXPECT_EQ(Train(*config, rank), absl::OkStatus());
  std::filesystem::remove_all(dir);
  return steps;
}

class StepAllocations : public ::testing::TestWithParam<const char*> {};

// What is left, in calls: the row of metrics.jsonl as a tree of named values and as text (about
// 90), its file (2), the batch (2 a sequence, and the starts of its documents as they grow), the
// agreement of ranks (2), the step itself (below). A tenth of room for other numbers in the row.
TEST_P(StepAllocations, ASteadyStepTakesNoBufferFromTheHeap) {
  const std::vector<HeapUse> steps = RunSteps(GetParam());
  ASSERT_EQ(steps.size(), size_t{kSteps});
  EXPECT_GT(steps[0].large, 0) << "nothing is counted";
  EXPECT_GT(steps[0].mappings, 0) << "nothing is counted";
  HeapUse most;
  for (size_t i = kSteps / 2; i < steps.size(); ++i) most = MaxOf(most, steps[i]);
  EXPECT_EQ(most.large, 0) << "the largest: " << most.largest << " bytes";
  EXPECT_EQ(most.mappings, 0);
  EXPECT_LE(most.calls, 128);
  EXPECT_LE(most.bytes, 24 << 10);
}

// The step alone, whatever its number of microbatches: an event for each of two streams (2), the
// order of an overlapped pair (3), and the experts' loads (1), a number an expert and layer.
TEST_P(StepAllocations, TrainStepKeepsAFewSmallListsOnly) {
  for (const int sequences : {4, 12}) {
    RunConfig config = TinyConfig();
    config.mutable_train()->set_global_batch(sequences);
    config.mutable_compute()->set_precision(GetParam());
    OneRank rank(config, /*threads=*/2);
    HeapUse most;
    for (int step = 1; step <= 16; ++step) {
      rank.LoadRandomBatch(step);
      ::sluice::testing::TakeHeapUse();
      rank.Train(1e-3, step);
      const HeapUse use = ::sluice::testing::TakeHeapUse();
      if (step > 8) most = MaxOf(most, use);
    }
    EXPECT_EQ(most.mappings, 0) << sequences << " sequences";
    EXPECT_LE(most.calls, 8) << sequences << " sequences";
    EXPECT_LE(most.bytes, 1024) << sequences << " sequences";
  }
}

INSTANTIATE_TEST_SUITE_P(All, StepAllocations, ::testing::Values("FP32", "BF16"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace sluice::trainer
