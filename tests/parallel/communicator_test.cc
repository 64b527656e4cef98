// Self and Threads communicators; MPI's is tests/distributed/communicator_test.cc with the same
// checks.
#include "parallel/comm/communicator.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>

#include "tests/support/communicator_checks.h"
#include "tests/support/thread_ranks.h"

namespace sluice::testing {
namespace {

using kernels::CpuStreamMode;
using kernels::StreamRole;

class ThreadsOf : public ::testing::TestWithParam<int> {};

TEST_P(ThreadsOf, EveryPropertyOfACommunicator) {
  RunThreadRanks(GetParam(), CpuStreamMode::kInline,
                 [](Communicator& group, kernels::DeviceContext& device) {
                   CheckCommunicator(group, device.stream(StreamRole::kComm));
                 });
}

TEST_P(ThreadsOf, PartsOfASplitHaveEveryProperty) {
  RunThreadRanks(GetParam(), CpuStreamMode::kInline,
                 [](Communicator& group, kernels::DeviceContext& device) {
                   auto half = group.Split(group.rank() % 2, 0);
                   ASSERT_TRUE(half.ok());
                   CheckCommunicator(**half, device.stream(StreamRole::kComm));
                 });
}

// The stream still has work that writes the data when the collective is called.
TEST_P(ThreadsOf, WaitsForEarlierWorkOfTheStream) {
  RunThreadRanks(GetParam(), CpuStreamMode::kThreaded,
                 [](Communicator& group, kernels::DeviceContext& device) {
                   auto& stream = kernels::CpuStream::From(device.stream(StreamRole::kComm));
                   std::vector<int64_t> data(1000);
                   for (int64_t round = 1; round <= 20; ++round) {
                     stream.Run([&, round](kernels::ThreadPool&) {
                       std::fill(data.begin(), data.end(), round);
                     });
                     ASSERT_TRUE(group.AllReduce(ViewOf(data), ReduceOp::kSum, stream).ok());
                     ASSERT_EQ(data, std::vector<int64_t>(1000, round * group.size()));
                   }
                 });
}

INSTANTIATE_TEST_SUITE_P(Communicators, ThreadsOf, ::testing::Values(1, 2, 3, 4, 8));

// Ranks 0 to 2 are stuck in a receive, a collective of all and a collective of a split; rank 3
// aborts. Everybody gets UNAVAILABLE with the reason, then and in every later call.
TEST(ThreadCommunicators, AbortFreesPeersStuckInACall) {
  std::atomic<int> freed{0};
  RunThreadRanks(
      4, CpuStreamMode::kInline, [&](Communicator& group, kernels::DeviceContext& device) {
        Stream& stream = device.stream(StreamRole::kComm);
        auto pair = group.Split(group.rank() / 2, 0);
        ASSERT_TRUE(pair.ok());
        std::vector<float> data(10);
        absl::Status status;
        switch (group.rank()) {
          case 0:
            status = group.Receive(ViewOf(data), 3, 0, stream);
            break;
          case 1:
            status = group.AllReduce(ViewOf(data), ReduceOp::kSum, stream);
            break;
          case 2:
            status = (*pair)->Barrier();
            break;
          default:
            group.Abort(absl::DataLossError("shard 7 is damaged"));
            status = group.Barrier();
        }
        EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
        EXPECT_NE(status.message().find("shard 7 is damaged"), absl::string_view::npos);
        EXPECT_EQ(group.Send(ViewOf(data), 0, 0, stream).code(), absl::StatusCode::kUnavailable);
        EXPECT_EQ((*pair)->Barrier().code(), absl::StatusCode::kUnavailable);
        ++freed;
      });
  EXPECT_EQ(freed, 4);
}

// A NaN must reach everybody through a maximum, whichever rank holds it, or a non-finite loss would
// be seen by some ranks only.
TEST(ThreadCommunicators, MaximumAndMinimumKeepNaN) {
  for (int holder = 0; holder < 3; ++holder) {
    RunThreadRanks(3, CpuStreamMode::kInline,
                   [&](Communicator& group, kernels::DeviceContext& device) {
                     Stream& stream = device.stream(StreamRole::kComm);
                     for (const ReduceOp op : {ReduceOp::kMax, ReduceOp::kMin, ReduceOp::kSum}) {
                       std::vector<float> data = {1.0f, group.rank() == holder ? NAN : 2.0f};
                       ASSERT_TRUE(group.AllReduce(ViewOf(data), op, stream).ok());
                       EXPECT_FALSE(std::isnan(data[0]));
                       EXPECT_TRUE(std::isnan(data[1]));
                     }
                   });
  }
}

}  // namespace
}  // namespace sluice::testing
