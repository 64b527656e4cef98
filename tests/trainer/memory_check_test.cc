// A run that would not fit into its host is refused before it takes anything.
#include "trainer/loop/memory_check.h"

#include <algorithm>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/thread_ranks.h"
#include "tests/trainer/small_run.h"
#include "trainer/loop/rehearsal.h"

namespace sluice::trainer {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

struct Hosts {
  int64_t free_bytes = 0;
  int ranks_of_first = 100;  // the others are on a second host
};

// What the ranks say; they must agree.
absl::Status Check(const RunConfig& config, int ranks, const Hosts& hosts) {
  absl::Status first;
  std::set<std::string> all;
  std::mutex mutex;
  ::sluice::testing::RunThreadRanks(
      ranks, kernels::CpuStreamMode::kInline,
      [&](parallel::Communicator& world, kernels::DeviceContext& device) {
        RankContext rank;
        rank.world = &world;
        rank.device = &device;
        rank.memory_name = world.rank() < hosts.ranks_of_first ? "host one" : "host two";
        rank.free_bytes = hosts.free_bytes;
        const absl::Status status = CheckMemory(config, rank);
        const std::lock_guard<std::mutex> lock(mutex);
        all.insert(status.ToString());
        first = status;
      });
  EXPECT_EQ(all.size(), size_t{1});
  return first;
}

int64_t BytesOf(const RunConfig& config, int pipe_rank) {
  return static_cast<int64_t>(
      Rehearse(config, {.pipe_rank = pipe_rank, .sequences = config.train().global_batch()})
          ->total());
}

// To the byte, and what two ranks share is the sum of both.
TEST(MemoryCheck, TheRehearsalsOfAHostsRanksMustFitTogether) {
  const RunConfig config = ConfigOn(SmallConfig("FP32"), {.pipe = 2});
  const int64_t first = BytesOf(config, 0), second = BytesOf(config, 1);
  EXPECT_NE(first, second);
  EXPECT_EQ(Check(config, 2, {.free_bytes = first + second}), absl::OkStatus());
  const absl::Status refused = Check(config, 2, {.free_bytes = first + second - 1});
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("GiB free on host one, wanted"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("for its 2 ranks"));
  // On hosts of their own each has as much.
  const int64_t larger = std::max(first, second);
  EXPECT_EQ(Check(config, 2, {.free_bytes = larger, .ranks_of_first = 1}), absl::OkStatus());
  EXPECT_THAT(
      std::string(Check(config, 2, {.free_bytes = larger - 1, .ranks_of_first = 1}).message()),
      HasSubstr("for its 1 rank ("));
}

TEST(MemoryCheck, IsNotMadeWhereItIsSwitchedOffOrNothingIsKnown) {
  RunConfig config = ConfigOn(SmallConfig("FP32"), {});
  EXPECT_EQ(Check(config, 1, {.free_bytes = 0}), absl::OkStatus());
  EXPECT_NE(Check(config, 1, {.free_bytes = 1}), absl::OkStatus());
  config.mutable_run()->set_check_memory(false);
  EXPECT_EQ(Check(config, 1, {.free_bytes = 1}), absl::OkStatus());
}

std::string Advice(RunConfig config) {
  return std::string(Check(ConfigOn(std::move(config), {}), 1, {.free_bytes = 1}).message());
}

TEST(MemoryCheck, NamesTheFieldThatHelps) {
  RunConfig config = SmallConfig("BF16");
  config.mutable_train()->set_sequence_length(1024);
  config.mutable_model()->set_max_position_embeddings(1024);
  config.mutable_train()->set_microbatch(4);
  EXPECT_THAT(Advice(config), HasSubstr("lower train.microbatch (4), or set run.check_memory"));
  config.mutable_train()->set_microbatch(1);
  EXPECT_THAT(Advice(config), HasSubstr("lower train.sequence_length (1024) or set "
                                        "compute.recompute=norm,mla_up,swiglu, or"));
  config.mutable_compute()->set_recompute("norm");
  EXPECT_THAT(Advice(config), HasSubstr("lower train.sequence_length (1024), or"));
  RunConfig gpipe = config;
  gpipe.set_schedule("gpipe");
  EXPECT_THAT(Advice(gpipe), Not(HasSubstr("microbatch")));
  // A state larger than the activations: shorter sequences do not help.
  RunConfig wide = SmallConfig("FP32");
  wide.mutable_model()->set_vocab_size(20000);
  wide.mutable_train()->set_global_batch(1);
  wide.mutable_train()->set_microbatch(1);
  EXPECT_THAT(Advice(wide), HasSubstr("a smaller model (model.num_hidden_layers is 4), set "
                                      "train.moment_dtype=BF16"));
}

// No rehearsal asks the device: what a GPU would hold is counted as well.
TEST(MemoryCheck, AGpuIsAskedForTheSame) {
  RunConfig config = ConfigOn(SmallConfig("FP32"), {});
  config.mutable_compute()->set_device("cuda");
  const int64_t wanted = BytesOf(config, 0);
  EXPECT_EQ(Check(config, 1, {.free_bytes = wanted}), absl::OkStatus());
  EXPECT_THAT(std::string(Check(config, 1, {.free_bytes = wanted - 1}).message()),
              HasSubstr("take more GPUs"));
}

// More than the system would lend at once can be asked for: a rehearsal touches no page of it.
TEST(MemoryCheck, AbsurdSizesAreRefusedAsWell) {
  RunConfig config = SmallConfig("FP32");
  config.mutable_train()->set_sequence_length(1024);
  config.mutable_model()->set_max_position_embeddings(1024);
  config.mutable_train()->set_global_batch(64);
  config.mutable_train()->set_microbatch(64);
  config.mutable_model()->set_hidden_size(1 << 18);  // 64 GiB a tensor
  const absl::Status status = Check(ConfigOn(config, {}), 1, {.free_bytes = int64_t{1} << 38});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

}  // namespace
}  // namespace sluice::trainer
