// The NCCL communicator under mpirun, on the software device and a libnccl.so.2 made of software:
// the checks that every communicator passes, on tensors of the device.
#include <dlfcn.h>

#include <cstdio>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/core/device.h"
#include "parallel/nccl/nccl_session.h"
#include "tests/support/communicator_checks.h"
#include "tests/support/mpi_world.h"
#include "tests/support/on_device_communicator.h"

namespace sluice::testing {
namespace {

using ::testing::HasSubstr;

// As real ones do, the device lives as long as the test's process.
kernels::DeviceContext& Device() {
  static kernels::DeviceContext* const device = [] {
    auto created = kernels::DeviceContext::Create({.type = kernels::DeviceType::kCuda});
    CHECK(created.ok()) << created.status().ToString();
    return created->release();
  }();
  return *device;
}

std::vector<std::pair<int, int>> AllPairs(int num_ranks) {
  std::vector<std::pair<int, int>> pairs;
  for (int from = 0; from < num_ranks; ++from) {
    for (int to = 0; to < num_ranks; ++to) pairs.emplace_back(from, to);
  }
  return pairs;
}

class NcclCommunicator : public ::testing::Test {
 protected:
  void SetUp() override {
    // Small, so that reductions are done in pieces.
    auto session = parallel::NcclSession::Create(Device(), {.scratch_bytes = 1 << 16});
    ASSERT_TRUE(session.ok()) << session.status();
    session_ = *std::move(session);
    auto host = World().Split(0, World().rank());
    ASSERT_TRUE(host.ok());
    auto group = session_->Wrap(*std::move(host));
    ASSERT_TRUE(group.ok()) << group.status();
    group_ = std::make_unique<OnDeviceCommunicator>(*std::move(group), Device());
  }
  void TearDown() override {
    group_.reset();
    session_.reset();
    if (const auto report = FindInDouble<const char* (*)()>("cuda_double_report")) {
      EXPECT_STREQ(report(), "");
    }
  }
  template <typename Function>
  static Function FindInDouble(const char* name) {
    return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
  }
  kernels::Stream& stream() { return Device().stream(kernels::StreamRole::kCompute); }
  parallel::Communicator& group() { return *group_; }

  std::unique_ptr<parallel::NcclSession> session_;
  std::unique_ptr<parallel::Communicator> group_;
};

TEST_F(NcclCommunicator, AllReduceIsExact) {
  CheckAllReduceIsExact<float>(group(), stream());
  CheckAllReduceIsExact<double>(group(), stream());
  CheckAllReduceIsExact<int32_t>(group(), stream());
  CheckAllReduceIsExact<int64_t>(group(), stream());
}

TEST_F(NcclCommunicator, SumsAreInRankOrder) { CheckSumsAreInRankOrder(group(), stream()); }

TEST_F(NcclCommunicator, AllGatherIsExact) {
  CheckAllGatherIsExact<float>(group(), stream());
  CheckAllGatherIsExact<uint8_t>(group(), stream());
  CheckAllGatherKeepsBytes(group(), stream());
}

TEST_F(NcclCommunicator, ReduceScatterIsExact) {
  CheckReduceScatterIsExact<float>(group(), stream());
  CheckReduceScatterIsExact<double>(group(), stream());
  CheckReduceScatterIsExact<int64_t>(group(), stream());
}

TEST_F(NcclCommunicator, AllToAllIsExact) {
  CheckAllToAllIsExact<float>(group(), stream());
  CheckAllToAllIsExact<int32_t>(group(), stream());
  CheckAllToAllToOneRank(group(), stream());
}

TEST_F(NcclCommunicator, BroadcastFromEachRoot) { CheckBroadcastFromEachRoot(group(), stream()); }

TEST_F(NcclCommunicator, SendDoesNotWaitForItsReceiver) {
  ASSERT_TRUE(group().Connect(AllPairs(group().size())).ok());
  CheckManySendsInFlight(group(), stream());
  ASSERT_TRUE(group().Connect(AllPairs(group().size())).ok());  // they are connected
  CheckManySendsInFlight(group(), stream());                    // now with recycled buffers
}

TEST_F(NcclCommunicator, BytesOfAnyLength) { CheckBytes(group()); }

TEST_F(NcclCommunicator, Split) { CheckSplit(group(), stream()); }

TEST_F(NcclCommunicator, TensorsOfTheHostStayThere) {
  auto host = World().Split(0, World().rank());
  ASSERT_TRUE(host.ok());
  auto wrapped = session_->Wrap(*std::move(host));
  ASSERT_TRUE(wrapped.ok()) << wrapped.status();
  std::vector<int64_t> data = {World().rank()};
  ASSERT_TRUE((*wrapped)->AllReduce(ViewOf(data), ReduceOp::kSum, stream()).ok());
  EXPECT_EQ(data[0], World().size() * (World().size() - 1) / 2);
}

TEST(NcclSession, ALibraryThatIsNotThereIsOneSentenceWithWhatWasTried) {
  const auto session =
      parallel::NcclSession::Create(Device(), {.libraries = {"libnccl_of_nobody.so.2"}});
  ASSERT_FALSE(session.ok());
  EXPECT_EQ(session.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(session.status().message()), HasSubstr("libnccl_of_nobody.so.2"));
  EXPECT_THAT(std::string(session.status().message()), HasSubstr("LD_LIBRARY_PATH, or use host"));
}

TEST(NcclSession, AnotherLibraryIsNotTakenForIt) {
  const auto session = parallel::NcclSession::Create(Device(), {.libraries = {"libm.so.6"}});
  ASSERT_FALSE(session.ok());
  EXPECT_THAT(std::string(session.status().message()), HasSubstr("has no ncclGetVersion"));
}

TEST_F(NcclCommunicator, SaysWhichLibraryItIs) {
  EXPECT_THAT(session_->Describe(), HasSubstr("NCCL 2."));
}

}  // namespace
}  // namespace sluice::testing
