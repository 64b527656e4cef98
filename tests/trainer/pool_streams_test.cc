// For whom the activation pool makes one stream wait for another: on a device whose streams only
// write down what they are asked.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/device.h"
#include "trainer/model/activation_pool.h"

namespace sluice::trainer {
namespace {

using kernels::StreamRole;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Calls = std::vector<std::string>;

class WrittenStream : public kernels::Stream {
 public:
  WrittenStream(std::string name, Calls& calls) : name_(std::move(name)), calls_(calls) {}
  kernels::DeviceId device() const override { return {}; }
  void Record(kernels::Event& /*event*/) override { calls_.push_back(name_ + " records"); }
  void Wait(const kernels::Event& /*event*/) override { calls_.push_back(name_ + " waits"); }
  absl::Status Synchronize() override { return absl::OkStatus(); }

 private:
  const std::string name_;
  Calls& calls_;
};

class WrittenDevice : public kernels::DeviceContext {
 public:
  kernels::DeviceId id() const override { return {}; }
  int num_threads() const override { return 1; }
  kernels::Stream& stream(StreamRole role) override {
    return role == StreamRole::kCompute ? compute_ : comm_;
  }
  std::unique_ptr<kernels::Event> CreateEvent() override {
    return std::make_unique<kernels::Event>();
  }
  void Copy(ConstTensorView /*from*/, TensorView /*to*/, kernels::Stream& /*stream*/) override {}
  Calls Take() { return std::exchange(calls_, {}); }

 protected:
  void* AllocateBytes(size_t bytes) override { return std::aligned_alloc(64, bytes); }
  void FreeBytes(void* data, size_t /*bytes*/) override { std::free(data); }

 private:
  Calls calls_;
  WrittenStream compute_{"compute", calls_}, comm_{"comm", calls_};
};

class PoolStreams : public ::testing::Test {
 protected:
  static constexpr size_t kBytes = 4096;
  // As many blocks as there are, all taken.
  std::vector<int> Blocks(int count) {
    std::vector<int> blocks;
    for (int i = 0; i < count; ++i) blocks.push_back(pool_.Acquire(kBytes));
    return blocks;
  }
  void ReleaseOn(StreamRole role, int block) {
    pool_.Enter(role);
    pool_.Release(block);
  }
  int AcquireOn(StreamRole role) {
    pool_.Enter(role);
    return pool_.Acquire(kBytes);
  }

  WrittenDevice device_;
  ActivationPool pool_{device_, [](const absl::Status&) { std::abort(); }, nullptr};
};

TEST_F(PoolStreams, TheStreamThatGaveABlockBackTakesItWithoutWaiting) {
  for (const StreamRole role : {StreamRole::kCompute, StreamRole::kComm}) {
    const int block = AcquireOn(role);
    ReleaseOn(role, block);
    EXPECT_EQ(AcquireOn(role), block);
    EXPECT_THAT(device_.Take(), IsEmpty());
  }
}

TEST_F(PoolStreams, AnotherStreamWaitsOnceForAllThatCameBackBefore) {
  const std::vector<int> blocks = Blocks(3);
  for (const int block : blocks) ReleaseOn(StreamRole::kComm, block);
  AcquireOn(StreamRole::kCompute);
  EXPECT_THAT(device_.Take(), ElementsAre("comm records", "compute waits"));
  AcquireOn(StreamRole::kCompute);
  EXPECT_THAT(device_.Take(), IsEmpty()) << "the wait was for the second block as well";
}

TEST_F(PoolStreams, AWaitDoesNotCoverWhatComesBackAfterIt) {
  const std::vector<int> blocks = Blocks(2);
  ReleaseOn(StreamRole::kComm, blocks[0]);
  AcquireOn(StreamRole::kCompute);
  device_.Take();
  ReleaseOn(StreamRole::kComm, blocks[1]);  // the very next one
  AcquireOn(StreamRole::kCompute);
  EXPECT_THAT(device_.Take(), ElementsAre("comm records", "compute waits"));
}

// Compute gives a block back, then waits for comm: that says nothing of comm and the block.
TEST_F(PoolStreams, AWaitIsOfOneStreamForTheOtherAndNotBack) {
  const std::vector<int> blocks = Blocks(2);
  ReleaseOn(StreamRole::kComm, blocks[1]);
  EXPECT_EQ(AcquireOn(StreamRole::kCompute), blocks[1]) << "comm's is all there is";
  ReleaseOn(StreamRole::kCompute, blocks[0]);
  ReleaseOn(StreamRole::kComm, blocks[1]);
  device_.Take();
  EXPECT_EQ(AcquireOn(StreamRole::kCompute), blocks[0]) << "its own before one to wait for";
  EXPECT_THAT(device_.Take(), IsEmpty());
  ReleaseOn(StreamRole::kCompute, blocks[0]);
  const int large = pool_.Acquire(4 * kBytes);
  pool_.Enter(StreamRole::kComm);
  pool_.Release(large);
  pool_.Enter(StreamRole::kCompute);
  EXPECT_EQ(pool_.Acquire(4 * kBytes), large);
  EXPECT_THAT(device_.Take(), ElementsAre("comm records", "compute waits"));
  EXPECT_EQ(AcquireOn(StreamRole::kComm), blocks[1]) << "its own";
  EXPECT_EQ(AcquireOn(StreamRole::kComm), blocks[0]);
  EXPECT_THAT(device_.Take(), ElementsAre("compute records", "comm waits"));
}

TEST_F(PoolStreams, OnceSettledOnlyWhatComesBackLaterIsWaitedFor) {
  const std::vector<int> blocks = Blocks(2);
  ReleaseOn(StreamRole::kComm, blocks[0]);
  pool_.Settle();
  AcquireOn(StreamRole::kCompute);
  EXPECT_THAT(device_.Take(), IsEmpty());
  ReleaseOn(StreamRole::kComm, blocks[1]);
  AcquireOn(StreamRole::kCompute);
  EXPECT_THAT(device_.Take(), ElementsAre("comm records", "compute waits"));
}

}  // namespace
}  // namespace sluice::trainer
