// What a dry run says of memory against what the ranks of a run hold.
#include <cmath>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/thread_ranks.h"
#include "tests/trainer/small_run.h"
#include "trainer/loop/rank_model.h"

namespace sluice::trainer {
namespace {

struct State {  // of a rank, MiB
  double parameters = 0, gradients = 0, optimizer = 0;
};

// The rows of the table: one a rank of the pipe.
std::vector<State> RowsOf(const std::string& dry_run, int pipe) {
  const std::string title = "state of a rank, MiB";
  std::istringstream lines(dry_run.substr(dry_run.find(title)));
  std::string line;
  std::getline(lines, line);
  std::getline(lines, line);
  std::vector<State> rows;
  while (std::getline(lines, line)) {
    // The last four words of the line are numbers.
    std::istringstream words(line);
    std::vector<std::string> all;
    for (std::string word; words >> word;) all.push_back(word);
    EXPECT_GE(all.size(), 5u) << line;
    if (all.size() < 5) return rows;
    const auto number = [&](int from_end) { return std::stod(all[all.size() - from_end]); };
    rows.push_back({number(4), number(3), number(2)});
    EXPECT_NEAR(number(1), number(4) + number(3) + number(2), 0.21) << line;  // each is rounded
  }
  EXPECT_EQ(rows.size(), static_cast<size_t>(pipe));
  return rows;
}

class DryRunMemory : public ::testing::TestWithParam<std::tuple<const char*, Layout>> {};

// Beside the printed rounding of 0.05: tensors begin at multiples of 64 bytes, packed weights are
// padded to panels of 32 columns, and shards to the number of ranks.
TEST_P(DryRunMemory, IsWhatARankHolds) {
  const auto& [precision, layout] = GetParam();
  RunConfig config = SmallConfig(precision);
  // Widths that fill the products' panels of 32 columns, but for rotated keys and gates.
  ModelConfig& m = *config.mutable_model();
  m.set_vocab_size(16384);
  m.set_hidden_size(64);
  m.set_intermediate_size(128);
  m.set_moe_intermediate_size(512);
  m.set_q_lora_rank(32);
  m.set_kv_lora_rank(32);
  if (std::string(precision) == "FP8") m.set_qk_rope_head_dim(16);
  config.mutable_train()->set_moment_dtype(std::string(precision) == "FP32" ? "FP32" : "BF16");
  const RunConfig resolved = ConfigOn(config, layout);
  const auto text = DryRun(resolved, layout.world());
  ASSERT_TRUE(text.ok()) << text.status();
  const std::vector<State> rows = RowsOf(*text, layout.pipe);
  ASSERT_EQ(rows.size(), static_cast<size_t>(layout.pipe));
  testing::RunThreadRanks(
      layout.world(), kernels::CpuStreamMode::kInline,
      [&](parallel::Communicator& group, kernels::DeviceContext& device) {
        const auto model = RankModel::Create(resolved, {.world = &group, .device = &device});
        ASSERT_TRUE(model.ok()) << model.status();
        const State& row = rows[(*model)->pipe_group().rank()];
        const auto expect = [&](kernels::MemoryTag tag, double wanted) {
          const double held = static_cast<double>(device.memory().bytes(tag)) / 1048576.0;
          EXPECT_NEAR(held, wanted, 0.05 + 0.03 * wanted)
              << kernels::NameOf(tag) << " of rank " << group.rank() << "\n"
              << *text;
        };
        expect(kernels::MemoryTag::kParameters, row.parameters);
        expect(kernels::MemoryTag::kGradients, row.gradients);
        expect(kernels::MemoryTag::kOptimizer, row.optimizer);
      });
}

INSTANTIATE_TEST_SUITE_P(
    All, DryRunMemory,
    ::testing::Combine(::testing::Values("FP32", "BF16", "FP8"),
                       ::testing::Values(Layout{}, Layout{.pipe = 2, .data = 2, .expert = 2},
                                         Layout{.data = 4, .expert = 2},
                                         Layout{.pipe = 2, .schedule = "dualpipe"})),
    [](const auto& info) {
      return std::string(std::get<0>(info.param)) + "_" + std::get<1>(info.param).Name();
    });

}  // namespace
}  // namespace sluice::trainer
