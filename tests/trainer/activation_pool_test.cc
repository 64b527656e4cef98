#include "trainer/model/activation_pool.h"

#include <gtest/gtest.h>

#include "tests/trainer/one_rank.h"
#include "trainer/model/tape.h"

namespace sluice::trainer {
namespace {

class ActivationPoolTest : public ::testing::Test {
 protected:
  std::unique_ptr<kernels::DeviceContext> device_ = *kernels::DeviceContext::Create({});
  ActivationPool pool_{*device_, [](const absl::Status&) { std::abort(); }, nullptr};
};

TEST_F(ActivationPoolTest, BlocksHoldWhatWasAskedForAndDoNotOverlap) {
  std::vector<std::pair<const char*, size_t>> ranges;
  for (const size_t bytes : {0, 1, 4096, 4097, 5000, 8191, 8192, 8193, 1000003}) {
    const int block = pool_.Acquire(bytes);
    const TensorView view = pool_.View(block, DType::kBF16, {static_cast<int64_t>(bytes / 2)});
    for (const auto& [begin, size] : ranges) {
      const char* here = static_cast<const char*>(view.raw_data());
      EXPECT_TRUE(here + bytes <= begin || begin + size <= here) << bytes;
    }
    ranges.emplace_back(static_cast<const char*>(view.raw_data()), bytes);
  }
}

TEST_F(ActivationPoolTest, AFreedBlockServesItsOwnAndSlightlySmallerSizesAgain) {
  const int block = pool_.Acquire(100000);
  pool_.Release(block);
  const int64_t held = pool_.held_bytes();
  EXPECT_EQ(pool_.Acquire(100000), block);
  pool_.Release(block);
  EXPECT_EQ(pool_.Acquire(80000), block);
  pool_.Release(block);
  EXPECT_EQ(pool_.held_bytes(), held);
  // A small tensor must not occupy a large block, or the large one is missing later.
  EXPECT_NE(pool_.Acquire(1000), block);
}

TEST_F(ActivationPoolTest, SizesWasteLessThanAQuarter) {
  for (size_t bytes = 5000; bytes < 3000000; bytes = bytes * 9 / 8 + 1) {
    ActivationPool pool(
        *device_, [](const absl::Status&) { std::abort(); }, nullptr);
    pool.Acquire(bytes);
    EXPECT_GE(pool.held_bytes(), static_cast<int64_t>(bytes));
    EXPECT_LE(pool.held_bytes(), static_cast<int64_t>(bytes * 5 / 4 + 1));
  }
}

TEST_F(ActivationPoolTest, EachGrowthIsLoggedOnce) {
  int lines = 0;
  ActivationPool pool(
      *device_, [](const absl::Status&) { std::abort(); }, [&](const std::string&) { ++lines; });
  const int a = pool.Acquire(10000);
  pool.Acquire(10000);
  pool.Release(a);
  pool.Acquire(10000);
  EXPECT_EQ(lines, 2);
}

TEST(ActivationPoolDeathTest, MemoryThatRunsOutEndsTheRunThroughTheHandler) {
  EXPECT_DEATH(
      {
        auto device = *kernels::DeviceContext::Create({.memory_limit_bytes = 1 << 20});
        ActivationPool pool(
            *device,
            [](const absl::Status& why) {
              std::fprintf(stderr, "handler: %s\n", why.ToString().c_str());
              std::_Exit(3);
            },
            nullptr);
        pool.Acquire(1 << 19);
        pool.Acquire(1 << 20);
      },
      "handler: RESOURCE_EXHAUSTED: no memory for 1048576 bytes of activations within the limit of "
      "1048576; MiB held: parameters 0.0, gradients 0.0, optimizer 0.0, activations 0.5, "
      "communication 0.0, scratch 0.0, total 0.5\n");
}

TEST(TapeDeathTest, ASlotThatNobodyFreedIsNamed) {
  auto device = *kernels::DeviceContext::Create({});
  ActivationPool pool(
      *device, [](const absl::Status&) { std::abort(); }, nullptr);
  TapeLayout layout;
  const SlotId first = layout.NewSlot(), second = layout.NewSlot();
  Tape tape(layout, pool);
  tape.New(first, DType::kF32, {3});
  tape.New(second, DType::kF32, {3});
  tape.Free(first);
  EXPECT_DEATH(tape.CheckIsEmpty(), "slot 1 was not freed");
  tape.Free(second);
  tape.CheckIsEmpty();
}

class SteadyStep : public ::testing::TestWithParam<const char*> {};

// Routes are fixed by repeating the batch with a learning rate of 0.
TEST_P(SteadyStep, AllocatesNothingOnceEverySizeHasBeenSeen) {
  RunConfig config = TinyConfig();
  config.mutable_model()->set_num_nextn_predict_layers(2);
  config.mutable_compute()->set_precision(GetParam());
  OneRank rank(config);
  rank.LoadRandomBatch(1);
  rank.Train(0);
  rank.Train(0, 2);
  const int64_t allocations = rank.device->memory().num_allocations(),
                bytes = rank.device->memory().total_bytes(), held = rank.model->pool().held_bytes();
  for (int step = 3; step < 6; ++step) rank.Train(0, step);
  EXPECT_EQ(rank.device->memory().num_allocations(), allocations);
  EXPECT_EQ(rank.device->memory().total_bytes(), bytes);
  EXPECT_EQ(rank.model->pool().held_bytes(), held);
  // An evaluation fits in what training holds.
  rank.Evaluate();
  EXPECT_EQ(rank.device->memory().num_allocations(), allocations);
}

INSTANTIATE_TEST_SUITE_P(Precision, SteadyStep, ::testing::Values("FP32", "BF16"));

}  // namespace
}  // namespace sluice::trainer
